#include "model/speculate.h"

#include <algorithm>

#include "core/random.h"

namespace flrc {
namespace {

// Draws are counted far below these bits.
constexpr uint64_t kDraftDraws = uint64_t{1} << 62, kAcceptDraws = uint64_t{1} << 63;

double probabilityOf(int32_t token, const Choices& choices) {
  const auto found = std::find(choices.tokens.begin(), choices.tokens.end(), token);
  return found == choices.tokens.end()
             ? 0
             : choices.probability(static_cast<size_t>(found - choices.tokens.begin()));
}

}  // namespace

double draftUniform(const Sampling& sampling) {
  return randomUniform(sampling.seed, sampling.draw | kDraftDraws);
}

double acceptUniform(const Sampling& sampling) {
  return randomUniform(sampling.seed, sampling.draw | kAcceptDraws);
}

Verdict verify(const Choices& target, const Choices& draft, int32_t drafted, double accept, double redraw,
               std::vector<double>& scratch) {
  if (accept * probabilityOf(drafted, draft) < probabilityOf(drafted, target)) return {drafted, true};
  for (size_t i = 0; i < draft.tokens.size(); ++i) {
    scratch[static_cast<size_t>(draft.tokens[i])] = draft.probability(i);
  }
  Choices rest;
  rest.tokens = target.tokens;
  rest.weights.reserve(target.tokens.size());
  for (size_t i = 0; i < target.tokens.size(); ++i) {
    const double q = scratch[static_cast<size_t>(target.tokens[i])];
    rest.weights.push_back(std::max(0.0, target.probability(i) - q));
    rest.total += rest.weights.back();
  }
  for (int32_t token : draft.tokens) scratch[static_cast<size_t>(token)] = 0;
  // Nothing is left to redraw from where rounding alone tells p from q.
  if (rest.total <= 0) return {drafted, true};
  return {rest.draw(redraw), false};
}

}  // namespace flrc
