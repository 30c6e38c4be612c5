#include "calibrate/text_passes.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "model/wide_layer.h"

namespace flrc {

int64_t longestSequence(const Model& model, const PassText& text) {
  for (int64_t i = 0; i < model.projectionCount(); ++i) {
    if (model.projection(i).factored()) {
      throw Error(code::internal, "calibration needs a dense model, not one that is factored already");
    }
  }
  int64_t total = 0;
  for (int32_t length : text.lengths) {
    if (length < 2) throw Error(code::internal, "a calibration sequence has fewer than 2 tokens");
    total += length;
  }
  if (text.lengths.empty() || total != static_cast<int64_t>(text.tokens.size())) {
    throw Error(code::internal, "the calibration sequences do not add up to the tokens");
  }
  model.checkTokens(text.tokens.data(), total);
  return *std::max_element(text.lengths.begin(), text.lengths.end());
}

TextPasses::TextPasses(const Model& model, const PassText& text, const DeviceWork& work,
                       const std::shared_ptr<SpillSpace>& space, int atOnce, const char* stage)
    : model_(model),
      text_(text),
      work_(work),
      space_(space),
      atOnce_(atOnce),
      stage_(stage),
      sequences_(std::ssize(text.lengths)),
      longest_(longestSequence(model, text)),
      boundaries_(space, static_cast<size_t>(model.config.layers * sequences_)),
      gradients_(space, static_cast<size_t>(sequences_)) {
  int64_t start = 0;
  for (int32_t length : text.lengths) {
    starts_.push_back(start);
    start += length;
  }
}

double TextPasses::forward() {
  const int64_t d = model_.config.hidden, layers = model_.config.layers;
  SpillStore hidden(space_, static_cast<size_t>(sequences_));
  for (int64_t l = 0; l < layers; ++l) {
    const WideLayer layer = widen(model_, l, 0);
    const LayerPass pass(work_, layer, l, longest_);
    each([&](int64_t s, Scratch& work) {
      const int64_t tokens = length(s);
      if (l == 0) embed(s, work.x);
      const float* x = l == 0 ? work.x.data() : hidden.get(static_cast<size_t>(s), work.x);
      boundaries_.put(boundary(l, s), x, static_cast<size_t>(tokens * d));
      work.y.resize(static_cast<size_t>(tokens * d));
      pass.forward(x, tokens, work.y.data());
      hidden.put(static_cast<size_t>(s), work.y.data(), work.y.size());
    });
    work_.job().report(stage_, l + 1, layers * 4);
  }
  const HeadGradients head(work_);
  std::vector<double> losses(static_cast<size_t>(sequences_));
  each([&](int64_t s, Scratch& work) {
    const int64_t tokens = length(s), start = starts_[static_cast<size_t>(s)];
    const float* x = hidden.get(static_cast<size_t>(s), work.x);
    work.dx.resize(static_cast<size_t>(tokens * d));
    const BackendLabels labels{text_.labels == Labels::model, text_.seed, static_cast<uint64_t>(start)};
    losses[static_cast<size_t>(s)] = head.of(x, text_.tokens.data() + start, tokens, labels, work.dx.data());
    gradients_.put(static_cast<size_t>(s), work.dx.data(), work.dx.size());
  });
  return std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(lossTokens());
}

void TextPasses::reportVisited(int64_t layer) const {
  const int64_t layers = model_.config.layers;
  work_.job().report(stage_, layers + (layers - layer) * 3, layers * 4);
}

void TextPasses::embed(int64_t s, std::vector<float>& x) const {
  x.resize(static_cast<size_t>(length(s) * model_.config.hidden));
  model_.embed(text_.tokens.data() + starts_[static_cast<size_t>(s)], length(s), x.data());
}

}  // namespace flrc
