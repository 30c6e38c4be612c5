#pragma once

#include <cstdint>
#include <vector>

#include "core/job.h"
#include "linalg/symmetric.h"

namespace flrc {

// Which inputs of a projection to do without, and how the others make up for them. y = W x, W [m, n]; A = sum x
// x^T over T tokens, B = sum g g^T of the gradients at y. What a change D of W adds to the summed loss is
// estimated as tr(B D A D^T) / (2 T), to which K-FAC's product of sums makes 1/2 sum_t (g_t . D x_t)^2.

struct ChannelRanking {
  std::vector<int32_t> order;  // those that may go, first to last: the cheapest
  std::vector<double> costs;   // [groups + 1], nats over the whole text, of dropping so many whole groups
};

struct ChannelRankingOptions {
  int64_t group = 1;   // inputs that costs are told of at a time
  int64_t block = 16;  // and that are chosen together at most
  double tokens = 1;   // T
  double jitter = 1e-8;
  int threads = 1;
};

// Groups of n inputs that may go: three quarters of them at most, and not all.
int64_t droppableGroups(int64_t n, int64_t group);

// Optimal brain surgeon (Hassibi and Stork 1993) on whole columns. While all that is left is refitted by least
// squares, losing column c alone adds w_c^T B w_c / (2 T (A^-1)_cc), and losing a set S adds
// tr(B W_S ((A^-1)_SS)^-1 W_S^T) / (2 T). The `block` cheapest go at a time, W and A^-1 are brought up to
// date, and so on; costs are of whole blocks, and add up to that of the refit of all. W row-major [m, n]; A is
// freed on the way. The same at any number of threads. E_NUMERIC as cholesky().
ChannelRanking rankChannels(const float* w, int64_t m, int64_t n, PackedSymmetric a, const PackedSymmetric& b,
                            const ChannelRankingOptions& options, const Job& job);

// Costs of some numbers of groups, as they were measured.
struct MeasuredCost {
  int64_t groups;
  double nats;
};
// Scales costs to what was measured, rising in groups; between two by shares of their scales. They still never
// fall.
void scaleCosts(std::vector<double>& costs, const std::vector<MeasuredCost>& measured);

// Bytes that rankChannels holds at its peak, A and B included, W not.
int64_t rankingBytes(int64_t m, int64_t n, int threads);

// W' [m, kept.size()], which brings W' x_K closest to W x under A: W_K + W_D A_DK A_KK^-1, K the inputs kept,
// rising, and D those dropped. W row-major [m, n]; A [n, n] as `packed` f32, laid out as PackedSymmetric.
std::vector<float> refitToKept(const float* w, int64_t m, int64_t n, const float* packed,
                               const std::vector<int32_t>& kept, double jitter, int threads, const Job& job);

// Bytes that refitToKept holds at its peak, A included, W not.
int64_t refitBytes(int64_t m, int64_t n, int64_t kept, int threads);

}  // namespace flrc
