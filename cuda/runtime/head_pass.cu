#include <algorithm>
#include <cmath>

#include "kernels/decode.h"
#include "kernels/label_losses.h"
#include "kernels/passes.h"
#include "runtime/head_pass.h"

namespace flrc {
namespace {

// Positions whose logits there are at once, and rows of a head in int8 or int4 that are widened at once.
constexpr int64_t kPositions = 256, kBand = 8192;

}  // namespace

DeviceHeadPass::DeviceHeadPass(DeviceModel& model) : model_(model) {
  const gpu::RowWeights& head = model.headRows();
  band_ = head.dtype == Dtype::bf16 ? head.rows : std::min(kBand, head.rows);
  const double values = static_cast<double>(kPositions * (model.vocab + 3 * model.hidden));
  gpu::checkRoom("the logits of a pass", 4 * values + gpu::WeightHalves::bytesOf(head, band_) +
                                             gpu::RoundedRows::bytesOf(kPositions, model.vocab + model.hidden));
  const auto hidden = static_cast<size_t>(kPositions * model.hidden);
  for (gpu::Buffer<float>* buffer : {&x_, &normed_, &dx_}) *buffer = gpu::Buffer<float>(hidden);
  logits_ = gpu::Buffer<float>(static_cast<size_t>(kPositions * model.vocab));
  next_ = gpu::HostBuffer<int32_t>(kPositions);
  losses_ = gpu::Buffer<double>(kPositions);
  total_ = gpu::Buffer<double>(1);
}

double DeviceHeadPass::gradient(const float* x, const int32_t* ids, int64_t tokens, const BackendLabels& labels,
                                float* dx, const BackendCancel& cancel) {
  std::lock_guard<std::mutex> working(mutex_);
  gpu::Pieces pieces(cancel);
  pieces.clear(total_);
  for (int64_t first = 0; first < tokens; first += kPositions) {
    const int64_t count = std::min(kPositions, tokens - first), at = first * model_.hidden;
    const auto values = static_cast<size_t>(count * model_.hidden);
    pieces.upload(x_, 0, x + at, values);
    gradient(pieces, ids, tokens, first, count, labels);
    pieces.download(dx_, 0, dx + at, values);
  }
  double loss = 0;
  pieces.download(total_, 0, &loss, 1);
  if (!std::isfinite(loss)) {
    throw gpu::Failure(BackendCode::numeric,
                       "a logit is not finite; the model's weights overflow, or are damaged");
  }
  return loss;
}

void DeviceHeadPass::gradient(gpu::Pieces& pieces, const int32_t* ids, int64_t tokens, int64_t first,
                              int64_t count, const BackendLabels& labels) {
  const int64_t hidden = model_.hidden, vocab = model_.vocab;
  const auto width = static_cast<int>(hidden), rows = static_cast<int>(count);
  // Nothing follows the last one.
  std::vector<int32_t> next(static_cast<size_t>(count), -1);
  std::copy(ids + first + 1, ids + std::min(first + count + 1, tokens), next.begin());
  next_.write(next.data(), next.size());
  gpu::launchNorm(pieces.stream(),
                  {x_.global(), nullptr, model_.finalNorm.read(), normed_.global(), model_.eps, width}, rows,
                  false);
  rounded_.round(pieces, normed_.read(), count, hidden);
  forBands(pieces, [&](int64_t band, int64_t words, const gpu::Halves& weights) {
    multiply(pieces, {rounded_.halves(), weights, count, words, logits_.global() + band, vocab});
  });
  gpu::launchLabelLosses(
      pieces.stream(),
      {logits_.global(), rows, static_cast<int>(vocab), next_.read(), true, labels.drawn, labels.seed,
       labels.firstDraw + static_cast<uint64_t>(first), losses_.global(), total_.global()});
  roundedLogits_.round(pieces, logits_.read(), count, vocab);
  forBands(pieces, [&](int64_t band, int64_t words, const gpu::Halves& weights) {
    gpu::Halves logits = roundedLogits_.halves();
    logits.high.data = logits.high.data + band;
    logits.high.width = static_cast<int>(words);
    multiply(pieces, {logits, weights, count, hidden, normed_.global(), hidden, true, band > 0});
  });
  gpu::launchNormBackward(
      pieces.stream(),
      {x_.read(), normed_.read(), model_.finalNorm.read(), dx_.global(), model_.eps, width, false}, rows);
}

template <typename Body>
void DeviceHeadPass::forBands(gpu::Pieces& pieces, const Body& body) {
  const gpu::RowWeights& head = model_.headRows();
  for (int64_t first = 0; first < head.rows; first += band_) {
    const int64_t count = std::min(band_, head.rows - first);
    weights_.load(pieces, head, first, count);
    body(first, count, weights_.halves());
  }
}

}  // namespace flrc
