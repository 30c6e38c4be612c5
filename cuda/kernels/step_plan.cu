#include "kernels/step_plan.h"

#include "kernels/linears_shares.cuh"

namespace flrc::gpu {

void StepPlan::Stage::add(const StepJob& job, Global<const uint8_t> data, int64_t used, int64_t stored,
                          int64_t count) {
  const auto strips = static_cast<int>(stripsOf(Dtype::bf16, used));
  jobs_.push_back(job);
  lines_.push_back({data, static_cast<int32_t>(stripsOf(Dtype::bf16, stored) * kStripBytes), strips,
                    linears::sliceBits<Dtype::bf16>(strips)});
  counts_.push_back(count);
}

void StepPlan::put(const Stage& stage) {
  const auto bytesOf = [&](size_t i) { return static_cast<double>(stage.lines_[i].strips) * kStripBytes; };
  double all = 0, before = 0;
  for (size_t i = 0; i < stage.jobs_.size(); ++i) all += static_cast<double>(stage.counts_[i]) * bytesOf(i);
  for (size_t i = 0; i < stage.jobs_.size(); ++i) {
    const auto count = static_cast<double>(stage.counts_[i]);
    put(stage.jobs_[i], StepKind::product, lines_, stage.lines_[i]);
    for (int b = 0; b <= blocks_; ++b) {
      const double line = std::round((all * b / blocks_ - before) / bytesOf(i));
      shares_.push_back(static_cast<int32_t>(std::clamp(line, 0.0, count)));
    }
    before += count * bytesOf(i);
  }
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
