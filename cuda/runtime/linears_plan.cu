#include <algorithm>

#include "runtime/linears_plan.h"

namespace flrc::gpu {
namespace {

RowJob rowJob(const RowWeights& rows) {
  RowJob job{};
  job.data = rows.data.read();
  job.rows = static_cast<int>(rows.rows);
  job.t = -1;
  return job;
}

PanelJob panelJob(const PanelWeights& panels, int64_t rank) {
  PanelJob job{};
  job.data = panels.data.read();
  job.scale = panels.scale.read();
  job.zero = panels.zero.read();
  job.width = static_cast<int>(panels.outputs);
  job.rank = static_cast<int>(rank);
  job.storedRank = static_cast<int>(panels.rank);
  job.u = -1;
  return job;
}

class Plan {
 public:
  explicit Plan(const LinearWeights& first) { params_.inputs = static_cast<int>(first.inputs); }

  void add(const PlannedLinear& linear) {
    const LinearWeights& weights = *linear.weights;
    const int64_t blocks = weights.factored ? weights.blocksFor(linear.rank) : 0;
    if (!weights.factored) {
      addRows(rowJob(weights.dense), linear);
    } else if (!weights.pivoted && blocks == 1) {
      addPlain(linear);
    } else if (blocks == 1) {
      addPivoted(linear);
    } else {
      addGathered(linear, blocks);
    }
  }

  LinearsParams finish() const {
    LinearsParams params = params_;
    params.tWidth = static_cast<int>(widths_.t);
    params.uWidth = static_cast<int>(widths_.u);
    return params;
  }

 private:
  void addRows(RowJob job, const PlannedLinear& linear) {
    job.y = linear.y;
    job.bias = linear.weights->bias.read();
    job.outputs = static_cast<int>(linear.weights->outputs);
    params_.rows[params_.rowJobs++] = job;
  }

  void addPanels(PanelJob job, const PlannedLinear& linear) {
    job.y = linear.y;
    job.bias = linear.weights->bias.read();
    job.outputs = static_cast<int>(linear.weights->outputs);
    params_.panels[params_.panelJobs++] = job;
  }

  int takeT(int64_t rank) {
    const auto at = static_cast<int>(widths_.t);
    widths_.t += tWidthOf(rank);
    return at;
  }

  int takeU(int64_t outputs) {
    const auto at = static_cast<int>(widths_.u);
    widths_.u += outputs;
    return at;
  }

  void addPlain(const PlannedLinear& linear) {
    const BlockWeights& block = linear.weights->blocks.front();
    const int64_t rank = std::min(linear.rank, block.rank());
    RowJob rows = rowJob(block.p);
    rows.rows = static_cast<int>(rank);
    rows.t = takeT(rank);
    params_.rows[params_.rowJobs++] = rows;
    PanelJob panels = panelJob(block.c, rank);
    panels.t = rows.t;
    addPanels(panels, linear);
  }

  // One pivoted block: t are outputs themselves, and u the others.
  void addPivoted(const PlannedLinear& linear) {
    const BlockWeights& block = linear.weights->blocks.front();
    RowJob rows = rowJob(block.p);
    rows.t = takeT(block.rank());
    rows.scatter = block.pivot.read();
    addRows(rows, linear);
    if (block.c.outputs == 0) return;
    PanelJob panels = panelJob(block.c, block.rank());
    panels.t = rows.t;
    panels.scatter = block.rest.read();
    addPanels(panels, linear);
  }

  // Several pivoted blocks, whose results are added up output by output; or none, which leaves the bias.
  void addGathered(const PlannedLinear& linear, int64_t blocks) {
    GatherJob& gather = params_.gathers[params_.gatherJobs++];
    gather.y = linear.y;
    gather.bias = linear.weights->bias.read();
    gather.outputs = static_cast<int>(linear.weights->outputs);
    gather.blocks = static_cast<int>(blocks);
    for (int64_t b = 0; b < blocks; ++b) {
      const BlockWeights& block = linear.weights->blocks[static_cast<size_t>(b)];
      RowJob rows = rowJob(block.p);
      rows.t = takeT(block.rank());
      params_.rows[params_.rowJobs++] = rows;
      PanelJob panels = panelJob(block.c, block.rank());
      panels.t = rows.t;
      panels.u = takeU(block.c.outputs);
      if (panels.width > 0) params_.panels[params_.panelJobs++] = panels;
      gather.gather[b] = block.gather.read();
      gather.rank[b] = static_cast<int>(block.rank());
      gather.t[b] = rows.t;
      gather.u[b] = panels.u;
    }
  }

  LinearsParams params_{};
  Widths widths_;
};

}  // namespace

Widths widthsOf(const std::vector<PlannedLinear>& linears) {
  const LinearsParams params = planLinears(linears);
  return {params.tWidth, params.uWidth};
}

LinearsParams planLinears(const std::vector<PlannedLinear>& linears) {
  Plan plan(*linears.front().weights);
  for (const PlannedLinear& linear : linears) plan.add(linear);
  return plan.finish();
}

LinearsParams planRows(const RowWeights& rows, Global<float> y) {
  LinearsParams params{};
  params.inputs = static_cast<int>(rows.cols);
  RowJob job = rowJob(rows);
  job.y = y;
  job.outputs = static_cast<int>(rows.rows);
  params.rows[params.rowJobs++] = job;
  return params;
}

}  // namespace flrc::gpu
