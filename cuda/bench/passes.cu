#include "bench/noise.h"
#include "bench/timing.h"
#include "kernels/causal_attention.h"
#include "kernels/decode.h"
#include "kernels/label_losses.h"
#include "kernels/passes.h"

// What a calibration's passes do between their products, at a layer of Llama 3.1 8B and its head; all on random
// values. compare.py times the same in PyTorch.

namespace bench {
namespace {

using namespace flrc::gpu;
using test::Array;
using test::Device;

constexpr int kSequences = 8, kLength = 512, kTokens = kSequences * kLength;
constexpr int kHidden = 4096, kIntermediate = 14336, kHeads = 32, kKvHeads = 8, kHeadDim = 128, kVocab = 128256;
constexpr int kKvWidth = kKvHeads * kHeadDim, kHeadRows = 256;
constexpr float kEps = 1e-5f;

class Passes {
 public:
  Passes(Device& device, Report& report) : device_(device), report_(report) {}

  void rowsOfValues() {
    const Values x(*this, kTokens, kHidden), dy(*this, kTokens, kHidden), weight(*this, 1, kHidden),
        y(*this, kTokens, kHidden);
    const Stream stream = device_.stream();
    // Read and written, by value.
    add("x += y and norm, 4096", 4.0 * x.count, [&] {
      launchNorm(stream, {x.at(), dy.at(), weight.at(), y.at(), kEps, kHidden}, kTokens, false);
    });
    add("back through a norm, 4096, added", 4.0 * x.count, [&] {
      launchNormBackward(stream, {x.at(), dy.at(), weight.at(), y.at(), kEps, kHidden, true}, kTokens);
    });
    add("x += y, 4096", 3.0 * x.count, [&] { launchAdd(stream, {y.at(), x.at(), kTokens, kHidden, false}); });
    const Values cosine(*this, kLength, kHeadDim / 2), sine(*this, kLength, kHeadDim / 2),
        norm(*this, 1, kHeadDim);
    for (const float* of : {static_cast<const float*>(nullptr), static_cast<const float*>(norm.at())}) {
      const TurnParams turn{x.at(),    y.at(),  of,     kEps,     cosine.at(),
                            sine.at(), kLength, kHeads, kHeadDim, kHeadDim / 2};
      const std::string what = of != nullptr ? "norm and rotation" : "rotation";
      add(what + " of 32 heads of 128", 2.0 * x.count, [&] {
        eachSequence([&](int64_t first) {
          TurnParams own = turn;
          own.x += first * kHidden, own.y += first * kHidden;
          launchTurn(stream, own);
        });
      });
      add("back through " + what + " of 32 heads of 128", (of != nullptr ? 3.0 : 2.0) * x.count, [&] {
        eachSequence([&](int64_t first) {
          TurnParams own = turn;
          own.x += first * kHidden;
          launchTurnBackward(stream, {own, dy.at() + first * kHidden, y.at() + first * kHidden});
        });
      });
    }
  }

  void gates() {
    const Values gate(*this, kTokens, kIntermediate), up(*this, kTokens, kIntermediate),
        y(*this, kTokens, kIntermediate), dGate(*this, kTokens, kIntermediate);
    add("silu(gate) * up, 14336", 3.0 * gate.count, [&] {
      launchGated(device_.stream(), {gate.at(), up.at(), y.at(), gate.count}, false);
    });
    add("back through silu(gate) * up, 14336", 5.0 * gate.count, [&] {
      launchGatedBackward(device_.stream(), {gate.at(), up.at(), y.at(), dGate.at(), up.at(), gate.count});
    });
  }

  // 2 products there, 5 back, of which the kernels make 7.
  void attention() {
    const Values q(*this, kTokens, kHidden), k(*this, kTokens, kKvWidth), v(*this, kTokens, kKvWidth),
        dOut(*this, kTokens, kHidden), out(*this, kTokens, kHidden), dq(*this, kTokens, kHidden),
        dk(*this, kTokens, kKvWidth), dv(*this, kTokens, kKvWidth), logSums(*this, kTokens, kHeads),
        dots(*this, kLength, kHeads), parts(*this, attentionParts(kLength, kHeads, kKvHeads, kHeadDim), 1);
    Array<uint16_t> rounded(static_cast<size_t>(attentionRounded(kLength, kHeads, kKvHeads, kHeadDim))),
        slopes(size_t{1} * kLength * kHidden);
    const auto forward = [&](int64_t first) {
      return CausalAttentionParams{q.at() + first * kHidden,
                                   k.at() + first * kKvWidth,
                                   v.at() + first * kKvWidth,
                                   kLength,
                                   kHeads,
                                   kKvHeads,
                                   kHeadDim,
                                   0,
                                   out.at() + first * kHidden,
                                   logSums.at() + first * kHeads,
                                   rounded.global()};
    };
    // Of one product of queries and the keys they see.
    constexpr double kFlops = 1.0 * kTokens * kLength * kHeads * kHeadDim;
    add(
        "attention, 32/8 heads of 128", 0,
        [&] {
          eachSequence([&](int64_t first) {
            launchCausalAttention(device_.stream(), forward(first), {0, kLength});
          });
        },
        2 * kFlops);
    add(
        "back through attention, 32/8 heads of 128", 0,
        [&] {
          eachSequence([&](int64_t first) {
            launchCausalAttentionBackward(device_.stream(),
                                          {forward(first), dOut.at() + first * kHidden,
                                           dq.at() + first * kHidden, dk.at() + first * kKvWidth,
                                           dv.at() + first * kKvWidth, slopes.global(), dots.at(), parts.at()},
                                          {0, kLength});
          });
        },
        5 * kFlops);
  }

  void losses() {
    const Values logits(*this, kHeadRows, kVocab);
    Array<int32_t> next(std::vector<int32_t>(kHeadRows, 1000));
    Array<double> losses(size_t{kHeadRows}), total(std::vector<double>{0});
    for (const bool drawn : {false, true}) {
      const std::string labels = drawn ? "drawn" : "given";
      // As much again is read and written each time; what they are after the first time makes no difference.
      add("losses and gradients of logits, 256 rows of 128256, labels " + labels, 3.0 * logits.count, [&] {
        launchLabelLosses(device_.stream(), {logits.at(), kHeadRows, kVocab, next.read(), true, drawn, 1, 0,
                                             losses.global(), total.global()});
      });
    }
  }

 private:
  struct Values {
    int64_t count;
    mutable Array<float> values;
    Values(Passes& of, int64_t rows, int64_t width) : count(rows * width), values(static_cast<size_t>(count)) {
      launchNoise(of.device_.stream(), {nullptr, values.global(), nullptr, count, 0});
      of.device_.synchronise();
    }
    Global<float> at() const { return values.global(); }
  };

  template <typename Body>
  static void eachSequence(const Body& body) {
    for (int64_t s = 0; s < kSequences; ++s) body(s * kLength);
  }

  // Values: read and written, 4 bytes each.
  template <typename Launch>
  void add(const std::string& name, double values, const Launch& launchOnce, double flops = 0) {
    report_.add({name, 1e6 * replaySeconds(device_, launchOnce), 4 * values, flops});
  }

  Device& device_;
  Report& report_;
};

}  // namespace

void timeRowsOfPasses(Device& device, Report& report) {
  Passes passes(device, report);
  passes.rowsOfValues();
  passes.gates();
}

void timeCausalAttention(Device& device, Report& report) { Passes(device, report).attention(); }

void timeLabelLosses(Device& device, Report& report) { Passes(device, report).losses(); }

}  // namespace bench
