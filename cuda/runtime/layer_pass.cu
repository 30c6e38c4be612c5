#include <chrono>
#include <string>

#include "runtime/layer_pass.h"

namespace flrc {

using gpu::Failure;
using gpu::LayerSteps;

DeviceLayerPass::DeviceLayerPass(const DeviceModel& model, int64_t layer, int64_t longest)
    : layer_{model, model.layers[static_cast<size_t>(layer)], {}, {}}, longest_(longest) {
  double bytes = LayerSteps::bytesOf(layer_, longest);
  for (const gpu::LinearWeights& linear : layer_.weights.projections) {
    if (linear.factored) throw Failure(BackendCode::internal, "passes need dense projections");
    bytes += gpu::WeightHalves::bytesOf(linear.dense, linear.outputs);
  }
  gpu::checkRoom("the way of " + std::to_string(longest) + " tokens through a layer and back", bytes);
  layer_.rotations = gpu::Rotations(model, longest);
  free_.push_back(std::make_unique<LayerSteps>(layer_, longest));
}

void DeviceLayerPass::load(const BackendCancel& cancel) {
  std::lock_guard<std::mutex> lock(loading_);
  if (loaded_) return;
  gpu::Pieces pieces(cancel);
  for (int p = 0; p < kBackendProjections; ++p) {
    const gpu::LinearWeights& linear = layer_.weights.projections[p];
    layer_.halves[p].load(pieces, linear.dense, 0, linear.outputs);
  }
  loaded_ = true;
}

std::unique_ptr<LayerSteps> DeviceLayerPass::take(const BackendCancel& cancel) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (free_.empty()) makeSecond();
  while (!given_.wait_for(lock, std::chrono::milliseconds(20), [&] { return !free_.empty(); })) {
    gpu::checkGoesOn(cancel);
  }
  std::unique_ptr<LayerSteps> steps = std::move(free_.back());
  free_.pop_back();
  return steps;
}

bool DeviceLayerPass::areTwo() {
  std::lock_guard<std::mutex> lock(mutex_);
  makeSecond();
  return two_;
}

void DeviceLayerPass::makeSecond() {
  if (secondTried_) return;
  secondTried_ = true;
  const double wanted = LayerSteps::bytesOf(layer_, longest_) + static_cast<double>(gpu::kSpareBytes);
  if (wanted > static_cast<double>(gpu::freeBytes())) return;
  auto made = gpu::ifItFits([&] { return std::make_unique<LayerSteps>(layer_, longest_); });
  if (!made) return;
  two_ = true;
  free_.push_back(std::move(made));
}

void DeviceLayerPass::give(std::unique_ptr<LayerSteps> steps) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(steps));
  }
  given_.notify_one();
}

}  // namespace flrc
