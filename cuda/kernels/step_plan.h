#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/step.h"

namespace flrc::gpu {

// Puts the jobs of a step together on the host. Exchanges and inputs are numbered as they come.
class StepPlan {
 public:
  // Products that follow one another, whose lines blocks share evenly by bytes.
  class Stage {
   public:
    // `count` lines of `stored` weights, of which the first `used` are multiplied.
    void add(const StepJob& job, Global<const uint8_t> data, int64_t used, int64_t stored, int64_t count);

   private:
    friend class StepPlan;
    std::vector<StepJob> jobs_;
    std::vector<StepLines> lines_;
    std::vector<int64_t> counts_;
  };

  explicit StepPlan(int blocks) : blocks_(blocks) {}

  int newExchange() { return ++exchanges_; }
  int newInput() { return ++inputs_; }
  void put(const Stage& stage);
  void gather(StepJob job, const StepGather& gather) { put(job, StepKind::gather, gathers_, gather); }
  // Attention of a layer and the merging of its chunks; returns the exchange of its results. Of the job: which,
  // width, wants and norms.
  int attend(StepJob job);

  const std::vector<StepJob>& jobs() const { return jobs_; }
  const std::vector<StepLines>& lines() const { return lines_; }
  const std::vector<int32_t>& shares() const { return shares_; }
  const std::vector<StepGather>& gathers() const { return gathers_; }
  int exchanges() const { return exchanges_; }

 private:
  template <typename What>
  void put(StepJob job, StepKind kind, std::vector<What>& list, const What& what) {
    job.kind = kind;
    job.which = static_cast<int32_t>(list.size());
    jobs_.push_back(job);
    list.push_back(what);
  }

  int blocks_, exchanges_ = 0, inputs_ = 0;
  std::vector<StepJob> jobs_;
  std::vector<StepLines> lines_;
  std::vector<int32_t> shares_;
  std::vector<StepGather> gathers_;
};

}  // namespace flrc::gpu
