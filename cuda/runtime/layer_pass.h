#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/layer_steps.h"

namespace flrc {

// The contract's handle: passes through one layer, of several sequences at once where memory holds them, so
// that the host takes what one leaves while the next is computed.
struct DeviceLayerPass {
  DeviceLayerPass(const DeviceModel& model, int64_t layer, int64_t longest);

  // body(steps) with steps that nobody else uses.
  template <typename Body>
  void pass(const BackendCancel& cancel, const Body& body) {
    load(cancel);
    std::unique_ptr<gpu::LayerSteps> steps = take(cancel);
    try {
      body(*steps);
    } catch (...) {
      give(std::move(steps));
      throw;
    }
    give(std::move(steps));
  }

 private:
  void load(const BackendCancel& cancel);
  std::unique_ptr<gpu::LayerSteps> take(const BackendCancel& cancel);
  void give(std::unique_ptr<gpu::LayerSteps> steps);

  gpu::PassedLayer layer_;
  int64_t longest_;
  std::mutex loading_;
  bool loaded_ = false;
  std::mutex mutex_;  // of all below
  std::condition_variable given_;
  std::vector<std::unique_ptr<gpu::LayerSteps>> free_;
  bool second_ = false;  // has been made, or did not fit
};

}  // namespace flrc
