#pragma once

#include <cstdint>
#include <vector>

#include "kernels/step.h"

namespace flrc::gpu {

// Puts the jobs of a step together on the host. Exchanges and inputs are numbered as they come.
class StepPlan {
 public:
  // `count` lines of `stored` weights, of which the first `used` are multiplied.
  struct Part {
    StepJob job;
    Global<const uint8_t> data;
    int64_t used, stored, count;
  };

  // Products that follow one another, which blocks share evenly by bytes.
  class Stage {
   public:
    void add(const Part& part);
    // Outputs that are gathered: the products that they are made of, with the outputs that each one's lines are
    // (null: all), and the job that puts them together. Of `gather`, shares are not there.
    void add(const std::vector<Part>& products, const std::vector<const std::vector<int32_t>*>& rests,
             int64_t outputs, const StepJob& job, const StepGather& gather);

   private:
    friend class StepPlan;
    struct Item {
      bool gathered = false;
      std::vector<Part> parts;
      // Lines, or outputs that are gathered: [count + 1], of those before each.
      std::vector<int64_t> strips;
      std::vector<const std::vector<int32_t>*> rests;
      StepJob job{};
      StepGather gather{};
    };
    std::vector<Item> items_;
  };

  explicit StepPlan(int blocks) : blocks_(blocks) {}

  int newExchange() { return ++exchanges_; }
  int newInput() { return ++inputs_; }
  void put(const Stage& stage);
  // Attention of a layer and the merging of its chunks; returns the exchange of its results. Of the job: which,
  // width, wants and norms.
  int attend(StepJob job);

  const std::vector<StepJob>& jobs() const { return jobs_; }
  const std::vector<StepLines>& lines() const { return lines_; }
  // Of lines, as StepParams has them, and then of gathers, whose own `shares` are not set.
  const std::vector<int32_t>& shares() const { return shares_; }
  const std::vector<int32_t>& gatherShares() const { return gatherShares_; }
  const std::vector<StepGather>& gathers() const { return gathers_; }
  int exchanges() const { return exchanges_; }
  int gathered() const { return gathered_; }

 private:
  void putPart(const Part& part, int32_t which, const std::vector<int32_t>& shares);

  int blocks_, exchanges_ = 0, inputs_ = 0, gathered_ = 0;
  std::vector<StepJob> jobs_;
  std::vector<StepLines> lines_;
  std::vector<int32_t> shares_, gatherShares_;
  std::vector<StepGather> gathers_;
};

}  // namespace flrc::gpu
