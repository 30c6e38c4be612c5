#pragma once

#include <cstdint>
#include <vector>

#include "kernels/step.h"

namespace flrc::gpu {

// Puts the jobs of a step together on the host. Exchanges and inputs are numbered as they come.
class StepPlan {
 public:
  // Lines of `stored` weights, as layout.h has them; of panels what they are scaled by, where they are.
  struct Matrix {
    Dtype dtype;
    bool panels;
    int64_t stored;
    Global<const uint8_t> data;
    Global<const uint16_t> scale = nullptr;
    Global<const uint8_t> zero = nullptr;
  };
  // A product: `count` lines of a matrix, of each of which the first `used` weights are multiplied.
  struct Part {
    StepJob job;
    Matrix matrix;
    int64_t used, count;
    // Where it is gathered from: the outputs that its lines are, in order; null: all.
    const std::vector<int32_t>* rest = nullptr;
  };

  // Products that follow one another, which blocks share evenly by bytes.
  class Stage {
   public:
    void add(const Part& part);
    // Outputs that the parts are gathered to by `job`.
    void gather(const std::vector<Part>& parts, int64_t outputs, const StepJob& job);

   private:
    friend class StepPlan;
    struct Item {
      std::vector<Part> parts;
      std::vector<int64_t> strips;  // of lines, or outputs, before each; and of all
      bool gathered = false;
      StepJob job{};
    };
    std::vector<Item> items_;
  };

  explicit StepPlan(int blocks)
      : jobs_(static_cast<size_t>(blocks)),
        lines_(jobs_.size()),
        inputsOf_(jobs_.size()),
        lastSent_(jobs_.size()) {}

  int newExchange() { return ++exchanges_; }
  int newInput() { return ++inputs_; }
  void put(const Stage& stage);
  // Attention of a layer and the merging of its chunks; returns the exchange of its results. Of the job: which,
  // width, wants and norms.
  int attend(StepJob job);
  // Whether every block sends something later than in `exchange`, so that none is still reading what was sent
  // in that when others go on from what all have sent since.
  bool allSendAfter(int exchange) const;

  // As StepParams has them.
  std::vector<StepJob> jobs() const;
  std::vector<StepLines> lines() const;
  std::vector<int32_t> firstJobs() const;
  std::vector<int32_t> firstLines() const;
  int exchanges() const { return exchanges_; }
  int gathered() const { return gathered_; }

 private:
  void put(const Stage::Item& item, size_t block, int64_t begin, int64_t end);
  // `asked`: outputs are gathered from it, be there lines or not.
  void put(const Part& part, size_t block, int64_t begin, int64_t end, bool asked);

  int exchanges_ = 0, inputs_ = 0, gathered_ = 0;
  std::vector<std::vector<StepJob>> jobs_;
  std::vector<std::vector<StepLines>> lines_;
  std::vector<int> inputsOf_;  // the last input of each block
  std::vector<int> lastSent_;  // in which exchange each block sends something last
};

}  // namespace flrc::gpu
