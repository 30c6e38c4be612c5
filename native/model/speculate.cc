#include "model/speculate.h"

#include <algorithm>

#include "core/random.h"

namespace flrc {
namespace {

// Draws are counted far below these bits.
constexpr uint64_t kDraftDraws = uint64_t{1} << 62, kAcceptDraws = uint64_t{1} << 63;

}  // namespace

double draftUniform(const Sampling& sampling) {
  return randomUniform(sampling.seed, sampling.draw | kDraftDraws);
}

double acceptUniform(const Sampling& sampling) {
  return randomUniform(sampling.seed, sampling.draw | kAcceptDraws);
}

Verdict verify(const Choices& target, const Choices& draft, int32_t drafted, double accept, double redraw,
               std::vector<double>& scratch) {
  for (size_t i = 0; i < draft.tokens.size(); ++i) {
    scratch[static_cast<size_t>(draft.tokens[i])] = draft.probability(i);
  }
  const double q = scratch[static_cast<size_t>(drafted)];
  double p = 0;
  Choices rest;
  for (size_t i = 0; i < target.tokens.size(); ++i) {
    const double own = target.probability(i);
    if (target.tokens[i] == drafted) p = own;
    const double above = std::max(0.0, own - scratch[static_cast<size_t>(target.tokens[i])]);
    rest.tokens.push_back(target.tokens[i]);
    rest.weights.push_back(above);
    rest.total += above;
  }
  for (int32_t token : draft.tokens) scratch[static_cast<size_t>(token)] = 0;
  // Nothing is left to redraw from where rounding alone tells p from q.
  if (accept * q < p || rest.total <= 0) return {drafted, true};
  return {rest.draw(redraw), false};
}

}  // namespace flrc
