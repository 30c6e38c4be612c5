#include <algorithm>
#include <utility>

#include "kernels/linears_shares.cuh"
#include "kernels/step_plan.h"

namespace flrc::gpu {
namespace {

int usedStrips(const StepPlan::Part& part) { return static_cast<int>(stripsOf(Dtype::bf16, part.used)); }

}  // namespace

void StepPlan::Stage::add(const Part& part) {
  Item item;
  item.parts = {part};
  for (int64_t line = 0; line <= part.count; ++line) item.strips.push_back(line * usedStrips(part));
  items_.push_back(std::move(item));
}

void StepPlan::Stage::add(const std::vector<Part>& products,
                          const std::vector<const std::vector<int32_t>*>& rests, int64_t outputs,
                          const StepJob& job, const StepGather& gather) {
  Item item{true, products, {0}, rests, job, gather};
  // Outputs take something in themselves, so that those without lines are shared as well.
  for (int64_t output = 0; output < outputs; ++output) {
    int64_t strips = 1;
    for (size_t i = 0; i < products.size(); ++i) {
      if (!rests[i] || std::binary_search(rests[i]->begin(), rests[i]->end(), static_cast<int32_t>(output))) {
        strips += usedStrips(products[i]);
      }
    }
    item.strips.push_back(item.strips.back() + strips);
  }
  items_.push_back(std::move(item));
}

void StepPlan::put(const Stage& stage) {
  int64_t all = 0, before = 0;
  for (const Stage::Item& item : stage.items_) all += item.strips.back();
  for (const Stage::Item& item : stage.items_) {
    std::vector<int32_t> shares;
    for (int64_t b = 0; b <= blocks_; ++b) {
      const auto at = std::lower_bound(item.strips.begin(), item.strips.end() - 1, all * b / blocks_ - before);
      shares.push_back(static_cast<int32_t>(at - item.strips.begin()));
    }
    before += item.strips.back();
    if (!item.gathered) {
      putPart(item.parts.front(), -1, shares);
      continue;
    }
    StepJob job = item.job;
    job.which = static_cast<int32_t>(gathers_.size());
    job.kind = StepKind::expect;
    jobs_.push_back(job);
    // The input that all blocks are to have read before is still there.
    for (const bool first : {true, false}) {
      for (size_t i = 0; i < item.parts.size(); ++i) {
        if ((item.parts[i].job.source == StepSource::normed) != first) continue;
        std::vector<int32_t> lines = shares;
        if (item.rests[i]) {
          const std::vector<int32_t>& rest = *item.rests[i];
          for (int32_t& line : lines) {
            line = static_cast<int32_t>(std::lower_bound(rest.begin(), rest.end(), line) - rest.begin());
          }
        }
        putPart(item.parts[i], static_cast<int32_t>(i), lines);
      }
    }
    job.kind = StepKind::gather;
    jobs_.push_back(job);
    gathers_.push_back(item.gather);
    gatherShares_.insert(gatherShares_.end(), shares.begin(), shares.end());
    for (size_t b = 1; b < shares.size(); ++b) {
      gathered_ = std::max(gathered_, (shares[b] - shares[b - 1]) * static_cast<int>(item.parts.size()));
    }
  }
}

void StepPlan::putPart(const Part& part, int32_t which, const std::vector<int32_t>& shares) {
  StepJob job = part.job;
  job.kind = StepKind::product;
  job.which = which;
  jobs_.push_back(job);
  const int strips = usedStrips(part);
  lines_.push_back({part.data, static_cast<int32_t>(stripsOf(Dtype::bf16, part.stored) * kStripBytes), strips,
                    linears::sliceBits<Dtype::bf16>(strips)});
  shares_.insert(shares_.end(), shares.begin(), shares.end());
}

int StepPlan::attend(StepJob job) {
  const int parts = newExchange(), out = newExchange();
  job.kind = StepKind::attend;
  job.sends = {parts, out};
  jobs_.push_back(job);
  job.kind = StepKind::merge;
  job.wants = parts;
  jobs_.push_back(job);
  return out;
}

}  // namespace flrc::gpu
