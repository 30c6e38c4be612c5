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

  // body(steps) with steps that nobody else uses, in turn where there is one.
  template <typename Body>
  void pass(const BackendCancel& cancel, const BackendTurn* turn, const Body& body) {
    load(cancel);
    // Alone a later call could hold the steps while it waits for an earlier one, which would wait for the
    // steps.
    if (turn && !areTwo()) turn->enter(turn->context);
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
  // Whether two sequences can be under way.
  bool areTwo();
  // Makes the second's steps where they fit; mutex_ is held.
  void makeSecond();

  gpu::PassedLayer layer_;
  int64_t longest_;
  std::mutex loading_;
  bool loaded_ = false;
  std::mutex mutex_;  // of all below
  std::condition_variable given_;
  std::vector<std::unique_ptr<gpu::LayerSteps>> free_;
  bool secondTried_ = false, two_ = false;
};

}  // namespace flrc
