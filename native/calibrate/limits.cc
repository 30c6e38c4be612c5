#include "calibrate/limits.h"

#include <algorithm>

#include "linalg/channels.h"
#include "model/head_pass.h"

namespace flrc {
namespace {

constexpr int64_t kFloat = sizeof(float), kDouble = sizeof(double);

int64_t packedBytes(int64_t n) { return n * (n + 1) / 2 * kDouble; }

struct Needs {
  int64_t weights = 0;        // one layer as f32
  int64_t rounded = 0;        // the same in bf16, both ways, while passes go on
  int64_t perSequence = 0;    // activations and gradients of one sequence
  int64_t moments = 0;        // of a whole layer, with the rows they are summed from
  int64_t keeping = 0;        // the largest moment to be kept, summed on its own
  int64_t perProjection = 0;  // the largest factorisation
  int64_t perHeadPass = 0;    // one sequence's logits and their gradients
  int64_t finished = 0;       // of one layer: factors of all ranks, kept moments
};

Needs needsOf(const ModelConfig& config, MomentKinds kinds, int64_t longest) {
  Needs needs;
  int64_t outputs = 0, inputs = 0, shrinking = 0;
  for (int p = 0; p < kProjections; ++p) {
    const auto [m, n] = widestShape(config, p);
    const int64_t thin = std::min(m, n);
    needs.weights += m * n * kFloat;
    needs.rounded += m * n * kFloat;
    needs.perProjection = std::max(needs.perProjection, factorBytes(m, n));
    needs.finished += thin * (m + n) * kFloat;
    outputs += m;
    inputs += n;
    // Of inputs that q, k, v or gate and up share one moment is summed; counting each keeps this simple and
    // errs towards less at once.
    const int64_t rows = longest * thin * kFloat;
    if (kinds.inputs) needs.moments += packedBytes(thin) + rows;
    if (kinds.gradients) needs.moments += packedBytes(thin) + rows;
    // One after another: a sequence's rows of the wide side, W scaled by its channels, and what their products
    // add.
    if (kinds.shrunk && m != n) {
      const int64_t wide = std::max(m, n);
      shrinking = std::max(shrinking, (longest * wide + m * n) * kFloat + packedBytes(thin));
    }
    // Kept as f32.
    if (kinds.kept) {
      needs.moments += packedBytes(thin) / 2;
      needs.finished += packedBytes(n) / 2;
      needs.keeping = std::max(needs.keeping, packedBytes(n) * 3 / 2 + longest * n * kFloat);
    }
  }
  needs.moments += shrinking;
  // Kept activations (inputs once, q, k, v, gate, up, product, what output norms are of), g of every output and
  // what each passes back.
  needs.perSequence =
      longest * ((config.outputNorms ? 6 : 4) * config.hidden + 2 * outputs + 2 * inputs) * kFloat;
  needs.perHeadPass =
      kHeadPositions * (config.vocab + 2 * config.hidden) * kFloat + longest * config.hidden * kFloat;
  return needs;
}

// Only down's two moments are summed, channels are ranked by them, and what that costs is measured: a refit,
// which holds the most where all stay, beside its change of W.
Needs channelNeedsOf(const ModelConfig& config, int64_t longest, int threads) {
  Needs needs = needsOf(config, {false, false}, longest);
  const auto [m, n] = widestShape(config, kDown);
  const int64_t summing = packedBytes(n) * 3 / 2 + packedBytes(m) + longest * (m + n) * kFloat;
  needs.perProjection = 0;
  const int64_t measuring = m * n * kFloat + refitBytes(m, n, n, threads);
  needs.keeping = std::max({summing, rankingBytes(m, n, threads), measuring});
  needs.finished = packedBytes(n) / 2;
  return needs;
}

// All that goes on at once where there is room for it.
int64_t roomForAll(const Needs& needs, int threads) {
  const int64_t factoring = needs.moments + std::min<int>(threads, kProjections) * needs.perProjection;
  return std::max(
      needs.weights + threads * needs.perSequence + std::max({needs.rounded, factoring, needs.keeping}),
      threads * needs.perHeadPass);
}

int atOnce(int64_t memory, int64_t each, int most) {
  return static_cast<int>(std::clamp<int64_t>(memory / std::max<int64_t>(each, 1), 1, most));
}

LayerLimits limitsOf(const Needs& needs, int threads, int64_t memory) {
  LayerLimits limits;
  limits.sequences = threads;
  limits.projections = std::min<int>(threads, kProjections);
  const int64_t everything = roomForAll(needs, threads);
  if (everything <= memory) {
    limits.stores = memory - everything;
    return limits;
  }
  limits.shareMemory = false;
  limits.sequences = std::min(atOnce(memory - needs.weights - needs.rounded, needs.perSequence, threads),
                              atOnce(memory, needs.perHeadPass, threads));
  limits.oneInput = needs.weights + needs.moments + needs.perProjection > memory;
  // The moments of one input are at most a few of seven projections'; half stands for them.
  const int64_t moments = limits.oneInput ? needs.moments / 2 : needs.moments;
  limits.projections = atOnce(memory - needs.weights - moments, needs.perProjection, limits.projections);
  const int64_t visit =
      needs.weights + std::max({needs.rounded + limits.sequences * needs.perSequence,
                                moments + limits.projections * needs.perProjection, needs.keeping});
  limits.stores = std::max<int64_t>(0, memory - std::max(visit, limits.sequences * needs.perHeadPass));
  return limits;
}

MemoryNeeds memoryOf(const Needs& needs, const ModelConfig& config, int64_t sequences, int64_t longest,
                     int threads) {
  const int64_t visit =
      std::max({needs.rounded + needs.perSequence, needs.moments / 2 + needs.perProjection, needs.keeping});
  // Boundaries of all layers, gradients of one, its kept activations, and what is finished of all.
  const int64_t boundaries = sequences * longest * config.hidden * (config.layers + 1) * kFloat;
  const int64_t stores = boundaries + sequences * needs.perSequence + config.layers * needs.finished;
  return {std::max(needs.weights + visit, needs.perHeadPass), roomForAll(needs, threads) + stores};
}

}  // namespace

int64_t factorBytes(int64_t m, int64_t n) {
  const int64_t thin = std::min(m, n), wide = std::max(m, n);
  // W in fp64, its Cholesky factor; then the eigenproblem's matrix, vectors and twice that of work, or its
  // vectors and the factors as f32. Once all else is freed, a copy of these, which takes no more.
  const int64_t solving = 4 * thin * thin * kDouble;
  const int64_t forming = thin * thin * kDouble + thin * (m + n) * kFloat;
  return (thin * wide + thin * thin) * kDouble + std::max(solving, forming);
}

int64_t pivotBytes(int64_t m, int64_t n, int64_t rank) {
  // All-rank factors read back; the reduced block and its coefficients twice while they are bounded; V in fp64
  // beside them afterwards; P and C as f32.
  const int64_t coefficients = 3 * rank * m * kDouble;
  return std::min(m, n) * (m + n) * kFloat + coefficients + rank * n * kDouble + rank * (m + n) * kFloat;
}

LayerLimits layerLimits(const ModelConfig& config, MomentKinds kinds, int64_t longest, int threads,
                        int64_t memory) {
  return limitsOf(needsOf(config, kinds, longest), threads, memory);
}

LayerLimits channelLimits(const ModelConfig& config, int64_t longest, int threads, int64_t memory) {
  return limitsOf(channelNeedsOf(config, longest, threads), threads, memory);
}

MemoryNeeds memoryNeeds(const ModelConfig& config, MomentKinds kinds, int64_t sequences, int64_t longest,
                        int threads) {
  return memoryOf(needsOf(config, kinds, longest), config, sequences, longest, threads);
}

MemoryNeeds channelMemoryNeeds(const ModelConfig& config, int64_t sequences, int64_t longest, int threads) {
  return memoryOf(channelNeedsOf(config, longest, threads), config, sequences, longest, threads);
}

}  // namespace flrc
