#pragma once

#include <functional>
#include <map>
#include <memory>

#include "runtime/step_program.h"
#include "runtime/steps.h"

namespace flrc::gpu {

// Passes of up to kBackendRows tokens of any sequences. The launches of a pass are recorded once by level,
// number of tokens and length, and replayed: what differs between tokens lies in device memory. One token goes
// through all layers in one launch where the model's weights and the chip allow it, and that is the faster way.
class DecodeSteps : public Steps {
 public:
  explicit DecodeSteps(DeviceModel& model);

  void reserve(int64_t positions) override;
  // What was described, attending to up to `positions`: hidden states and logits of all tokens.
  void replay(int64_t level, int64_t columns, int64_t positions);
  // Logits of some rows, up to kBackendRows, of other hidden states [rows][hidden].
  void headOf(const Buffer<float>& from, const std::vector<int64_t>& rows);

  const Buffer<float>& logits() const { return logits_; }
  uint64_t bytes() const;

 private:
  struct Recorded {
    int64_t level, columns, positions;
    auto operator<=>(const Recorded&) const = default;
  };

  bool isBetter(Graph& whole, Graph& launches);
  std::unique_ptr<Graph> record(int64_t level, int64_t columns, int64_t positions);
  // Null where a step does not fit into one launch.
  std::unique_ptr<Graph> recordWhole(int64_t level);
  std::unique_ptr<Graph> recorded(const std::function<void()>& launches);
  void attend(int64_t layer, const RotateParams& heads, int64_t columns) override;
  void multiplyHead(int64_t columns);

  Buffer<float> logits_;
  Buffer<float> parts_;  // of attention to all positions that there is room for
  Buffer<uint32_t> counters_;
  int64_t roomFor_ = 0;
  int64_t length_ = 0;  // that attention is launched for
  std::map<Recorded, std::unique_ptr<Graph>> graphs_;
  std::unique_ptr<StepBuffers> buffers_;  // of whole steps, and their programs by level
  std::map<int64_t, StepProgram> programs_;
};

}  // namespace flrc::gpu
