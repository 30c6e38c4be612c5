#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "calibrate/device_work.h"
#include "calibrate/pass_text.h"
#include "calibrate/spill_store.h"
#include "core/recycled.h"
#include "core/thread_pool.h"
#include "core/turns.h"
#include "model/model.h"

namespace flrc {

// Tokens of the longest sequence. E_INTERNAL unless the model is dense, and the sequences add up to tokens of
// its vocabulary.
int64_t longestSequence(const Model& model, const PassText& text);

// A text's hidden states at every layer's input, kept from one forward pass, and its gradients at the output of
// the layer that is visited next, from the last layer down. What it is made of must outlive it.
class TextPasses {
 public:
  struct Scratch {
    std::vector<float> x, y, dy, dx;
    std::vector<std::vector<float>> outputs;  // gradients of projections that share an input
  };

  // atOnce: sequences. stage: what progress is reported as, each layer a quarter forwards and the rest
  // backwards.
  TextPasses(const Model& model, const PassText& text, const DeviceWork& work,
             const std::shared_ptr<SpillSpace>& space, int atOnce, const char* stage);

  int64_t length(int64_t s) const { return text_.lengths[static_cast<size_t>(s)]; }
  // Tokens that carry a loss.
  int64_t lossTokens() const { return static_cast<int64_t>(text_.tokens.size()) - sequences_; }

  // All layers and the head. Returns the mean loss of a token under the text's own next token, nats.
  double forward();
  void reportVisited(int64_t layer) const;
  SpillStore& gradients() { return gradients_; }
  void freeScratch() { scratch_.clear(); }

  // body(s, scratch) for all sequences, several at once.
  template <typename Body>
  void each(const Body& body) {
    ThreadPool::shared().parallelFor(sequences_, atOnce_, [&](int64_t s) {
      work_.job().check();
      auto work = scratch_.take();
      body(s, *work);
    });
  }

  // pass(s, x, dy, dx) through one layer for all sequences, several at once; then the gradients are those below
  // it.
  template <typename Pass>
  void backward(int64_t layer, const Pass& pass) {
    each([&](int64_t s, Scratch& work) { backward(layer, s, true, pass, work); });
  }

  // pass(s, x, dy, dx, turn), in turns: sums have one order, and what two sequences at a time bring and take
  // away none. Where it does not go on, dx is null and the gradients stay.
  template <typename Pass>
  void inOrder(int64_t layer, bool goesOn, const Pass& pass) {
    Turns turns;
    ThreadPool::shared().parallelFor(sequences_, std::min(atOnce_, 2), [&](int64_t s) {
      Turns::Turn turn(turns, s);
      work_.job().check();
      auto work = scratch_.take();
      const auto inTurn = [&](int64_t, const float* x, const float* dy, float* dx) {
        pass(s, x, dy, dx, turn);
      };
      backward(layer, s, goesOn, inTurn, *work);
    });
  }

 private:
  size_t boundary(int64_t layer, int64_t s) const { return static_cast<size_t>(layer * sequences_ + s); }

  template <typename Pass>
  void backward(int64_t layer, int64_t s, bool goesOn, const Pass& pass, Scratch& work) {
    const float* x = boundaries_.get(boundary(layer, s), work.x);
    const float* dy = gradients_.get(static_cast<size_t>(s), work.dy);
    work.dx.resize(goesOn ? static_cast<size_t>(length(s) * model_.config.hidden) : 0);
    pass(s, x, dy, goesOn ? work.dx.data() : nullptr);
    if (goesOn) gradients_.put(static_cast<size_t>(s), work.dx.data(), work.dx.size());
  }

  void embed(int64_t s, std::vector<float>& x) const;

  const Model& model_;
  const PassText& text_;
  const DeviceWork& work_;
  const std::shared_ptr<SpillSpace> space_;
  const int atOnce_;
  const char* const stage_;
  const int64_t sequences_, longest_;
  std::vector<int64_t> starts_;
  Recycled<Scratch> scratch_;
  SpillStore boundaries_, gradients_;
};

}  // namespace flrc
