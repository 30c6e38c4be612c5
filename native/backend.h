#pragma once

// The contract between the core and what computes for it: a versioned table of functions over plain structs.
// The CPU is one such table (model/cpu_backend.cc); a plugin is a shared object that shows another one under
// kBackendEntry. Nothing is thrown and nothing is allocated for the other side across it: whoever made an
// object frees it. A table may be called from any thread; calls on one DevicePass or sequence, or on one set of
// moments, come one at a time.

#include <cstdint>

#include "model/activation.h"
#include "tensor/dtype.h"

namespace flrc {

// Raised with every change of a struct or of a function's meaning. Functions may be added at the table's end
// without: `size` tells which are there.
inline constexpr uint32_t kBackendVersion = 10;
// `extern "C" const flrc::Backend* flrc_backend()`, valid for as long as the process lives.
inline constexpr const char* kBackendEntry = "flrc_backend";
using BackendEntry = const struct Backend* (*)();

// The most rows that a pass takes of any sequences, each with bitwise the result that it has alone.
inline constexpr int64_t kBackendRows = 16;
inline constexpr int kBackendProjections = 7;

enum class BackendCode : int32_t { ok = 0, outOfMemory, aborted, device, numeric, internal };

// What went wrong, in words for the user; left alone by calls that return ok.
struct BackendFailure {
  char message[1024];
};

// What a user should know of how a table computes on its device, in sentences; empty where there is nothing.
struct BackendNotes {
  char text[1024];
};

// Asked between pieces of work of 50 ms at most.
struct BackendCancel {
  void* context;
  bool (*cancelled)(void* context);
};

struct BackendDevice {
  char name[256];  // as its maker calls it
  uint64_t totalBytes;
  uint64_t freeBytes;
  uint32_t dtypes;  // of weights that it takes: bit 1 << Dtype
};

// A RowMatrix and a PanelMatrix of tensor/matrix.h, in their layouts, which are made for the CPU: panels of
// kPanel outputs, the last with the rest, in which the 4-byte words of all outputs lie side by side. Borrowed:
// valid during the call, so whoever wants another layout rearranges while he copies.
struct BackendRows {
  Dtype dtype;
  int64_t rows, cols, stride;  // stride: cols rounded up to whole groups
  const void* data;            // [panel][word of a row][row of the panel]
  const void* scale;           // [panel][group of a row][row of the panel], null without scales
  const void* zero;            // as scale
};
struct BackendPanels {
  Dtype dtype;
  int64_t outputs, rank;
  const void* data;   // [panel][word of an output][output of the panel], ranks in order along an output
  const void* scale;  // [panel][rank]
  const void* zero;   // as scale
};

// A FactorBlock of model/linear.h.
struct BackendBlock {
  BackendRows p;
  BackendPanels c;
  const int32_t* pivot;   // [rank], rising; null for plain factors
  const int32_t* gather;  // [outputs]; null for plain factors
};

// A projection y = W x (+ bias): dense, pivoted blocks from the lowest level up, or one block of plain factors.
struct BackendLinear {
  int64_t outputs, inputs;
  const BackendRows* dense;  // null when factored
  const BackendBlock* blocks;
  int64_t blockCount;
  bool pivoted;
  const float* bias;  // [outputs] or null
};

struct BackendLayer {
  const float* attentionNorm;                      // [hidden]
  const float* mlpNorm;                            // [hidden]
  const float* queryNorm;                          // [headDim] or null
  const float* keyNorm;                            // [headDim] or null
  const float* attentionOutputNorm;                // [hidden] or null: of what joins the hidden states
  const float* mlpOutputNorm;                      // likewise
  int64_t window;                                  // sliding attention window in positions, 0 for all
  int32_t rope;                                    // which of the model's rotations, -1 for none
  BackendLinear projections[kBackendProjections];  // q, k, v, o, gate, up, down
};

// A rotation: pairs (i, i + pairs) of a head are turned, pairs <= headDim / 2; what is behind them is not.
struct BackendRope {
  int64_t pairs;
  const double* frequencies;  // [pairs], radians per position
  float scale;                // on cos and sin
};

// One loaded model; everything it points to is borrowed.
struct BackendModel {
  uint32_t size;
  int64_t layers, hidden, heads, kvHeads, headDim;
  int64_t intermediate;  // the most channels that an MLP may have; a layer's: its gate's outputs
  int64_t vocab, context;
  float eps;
  const BackendRope* ropes;
  int64_t ropeCount;
  Activation activation;
  float embeddingScale;       // on embeddings
  float queryScale;           // on queries, whose scores are divided by sqrt(headDim) besides
  float residualScale;        // on what attention and the MLP add to the hidden states
  BackendRows embedding;      // [vocab, hidden]
  BackendRows head;           // [vocab, hidden]; the embedding's data when tied
  const float* finalNorm;     // [hidden], with what logits are scaled by
  const BackendLayer* layer;  // [layers]
  int64_t levels;
  const int32_t* const* ranks;  // [levels][layers * 7], -1 is dense
  // The core's own Model, which outlives what is made of it; for the table that is part of the core.
  const void* host;
};

struct BackendSampling {
  double temperature = 0;  // 0 is greedy
  int64_t topK = 0;        // 0 is off
  double topP = 1;         // 1 is off
  double minP = 0;         // 0 is off
  uint64_t seed = 0;
  uint64_t draw = 0;  // which draw of the seed this is
};

struct BackendSampled {
  int32_t token = 0;   // -1: a logit is not finite
  double logprob = 0;  // under the model's own distribution, before temperature and filters
  double entropy = 0;  // of that distribution, nats
};

// A model's weights on the device; one sequence's keys, values and last logits there; working memory of a pass.
struct DeviceModel;
struct DeviceSequence;
struct DevicePass;

// One token of a pass: the sequence it belongs to and its place there.
struct BackendRow {
  DeviceSequence* sequence;
  int64_t position;
};

// A sequence to draw a token from, and how.
struct BackendDraw {
  DeviceSequence* sequence;
  BackendSampling sampling;
};

// What a calibration (native/calibrate) computes: passes of whole sequences through one layer, moments of
// several rows, and the truncation curves of projections that share an input.
struct DeviceLayerPass;
struct DeviceHeadPass;
struct DeviceMoments;
struct DeviceCurves;

// What a pass leaves of a projection, [tokens, width]: its input; g, the gradient at its output; g W, which it
// passes back; W x, which it passes on, without the bias.
enum class BackendTape : int32_t { input = 0, gradient, passedBack, passedOn };
inline constexpr int kBackendTapes = 4;

// Which of them go to the host, one after another, and to whom.
struct BackendTapes {
  uint32_t wanted[kBackendTapes];  // by BackendTape: bit 1 << projection
  void* context;
  // Borrows `count` values during the call. False: it has no place for them, and the pass ends as one that is
  // aborted.
  bool (*put)(void* context, BackendTape tape, int32_t projection, const float* values, int64_t count);
};

// Rows that a pass leaves and a moment sums: of gradients and what they become as they are passed back, each
// times its token's clipFactors (linalg/clipping.h).
struct BackendMomentRows {
  BackendTape tape;
  int32_t projection;
};

// The inputs of (q, k, v), o, (gate, up), down.
inline constexpr int kBackendInputs = 4;

// The order of calls that overlap, two at most: each calls `enter` when it has done what needs no order, which
// returns when the calls before it have left or ended (and at once when it is called again); and `leave` once
// it has added all that it adds.
struct BackendTurn {
  void (*enter)(void* context);
  void (*leave)(void* context);
  void* context;
};

// What a pass adds up where it is computed, for tables that do so (addsInPlace). Calls that add to the same
// sums come one at a time, or in turns.
struct BackendSums {
  DeviceMoments* moments;         // or null
  const BackendMomentRows* rows;  // of each of its sums, in order
  int64_t count;
  // Rows whose columns' squares are summed, of gradients times their token's clipFactors, to squares[i] [width]
  // on the host. Gradients are of projections that a moment sums as well.
  const BackendMomentRows* squared;
  double* const* squares;
  int64_t squareCount;
  DeviceCurves* curves[kBackendInputs];  // or null: of the projections that have the input
  double* const* out[kBackendInputs];    // of each of these projections, as addCurves has it
  const BackendTurn* turn;               // or null
};

// What a sequence's gradients are taken against: its own next tokens, or tokens drawn from the model's own
// distribution, draw `firstDraw` + position of `seed`.
struct BackendLabels {
  bool drawn;
  uint64_t seed, firstDraw;
};

// Nested factors of a projection W [m, n] (linalg/factors.h): what they are made of, and where they go.
struct BackendFactoring {
  int64_t m, n;
  const float* w;           // [m, n]
  const double* inputs;     // sum x x^T [n, n], its lower triangle packed by rows; null for the identity
  const double* gradients;  // sum g g^T [m, m], likewise
  // Of the size of the thin side, likewise: what W sees of the wide side's moment, which is then null.
  const double* seen;
  int64_t rank;  // 1..min(m, n)
  bool randomised;
  int32_t oversampling, powerIterations;
  double jitter;
  uint64_t seed;
  float* u;          // [rank, m]
  float* v;          // [rank, n]
  double* singular;  // [rank]
};

// A projection of which a truncation curve is computed (linalg/curves.h); borrowed until the curves are
// released.
struct BackendCurve {
  int64_t m, rank;
  const float* u;  // [rank, m]
  const float* v;  // [rank, n]
  const float* w;  // [m, n]; null where the factors hold all ranks
};

struct Backend {
  uint32_t size;     // sizeof(Backend) where the table was built
  uint32_t version;  // kBackendVersion there
  const char* name;  // "cpu", "cuda"

  // How well this backend suits this machine: of several the highest is taken. 0: it cannot run here, and
  // `failure` says what is missing.
  int32_t (*score)(BackendFailure* failure);
  BackendCode (*describe)(BackendDevice* out, BackendFailure* failure);
  // Bytes per second that the device reads from its memory, measured.
  BackendCode (*readBandwidth)(double* out, BackendFailure* failure);

  BackendCode (*createModel)(const BackendModel* model, const BackendCancel* cancel, DeviceModel** out,
                             BackendFailure* failure);
  void (*releaseModel)(DeviceModel* model);

  BackendCode (*createSequence)(DeviceModel* model, DeviceSequence** out, BackendFailure* failure);
  // A sequence of its own with the first `length` positions and the last logits of another.
  BackendCode (*copySequence)(const DeviceSequence* from, int64_t length, DeviceSequence** out,
                              BackendFailure* failure);
  void (*releaseSequence)(DeviceSequence* sequence);
  uint64_t (*sequenceBytes)(const DeviceSequence* sequence);

  BackendCode (*createPass)(DeviceModel* model, DevicePass** out, BackendFailure* failure);
  void (*releasePass)(DevicePass* pass);
  uint64_t (*passBytes)(const DevicePass* pass);

  // Token t becomes position rows[t].position of its sequence, all before it being there. Up to kBackendRows
  // rows may belong to any sequences; more are consecutive positions of one sequence (prefill). Positions are
  // below the context, tokens inside the vocabulary: the caller has checked that.
  BackendCode (*run)(DevicePass* pass, const int32_t* tokens, const BackendRow* rows, int64_t count,
                     int64_t level, const BackendCancel* cancel, BackendFailure* failure);
  // Logits [count, vocab] of up to kBackendRows rows of the last run, to the host.
  BackendCode (*logits)(DevicePass* pass, const int64_t* rows, int64_t count, float* out,
                        BackendFailure* failure);
  // The same logits stay where they are: each row's become its sequence's last logits.
  BackendCode (*keepLogits)(DevicePass* pass, const int64_t* rows, int64_t count, BackendFailure* failure);

  // A sequence's last logits [vocab], to the host and from the host. The caller knows whether there are any.
  BackendCode (*getLogits)(DeviceSequence* sequence, float* out, BackendFailure* failure);
  BackendCode (*setLogits)(DeviceSequence* sequence, const float* logits, BackendFailure* failure);
  // The likeliest token of each of up to kBackendRows rows of the last run, as sample() has it of kept logits.
  BackendCode (*likeliest)(DevicePass* pass, const int64_t* rows, int64_t count, BackendSampled* out,
                           BackendFailure* failure);
  // From the last logits of each of up to kBackendRows sequences of one model, each there once, with bitwise
  // the result that it has alone.
  BackendCode (*sample)(const BackendDraw* draws, int64_t count, BackendSampled* out, BackendFailure* failure);

  // Passes of sequences of up to `longest` tokens, from position 0, through one layer of dense projections.
  // `host`: the core's own WideLayer, which outlives the pass; for the table that is part of the core. Calls on
  // one pass may overlap.
  BackendCode (*createLayerPass)(DeviceModel* model, int64_t layer, int64_t longest, const void* host,
                                 DeviceLayerPass** out, BackendFailure* failure);
  void (*releaseLayerPass)(DeviceLayerPass* pass);
  // y = layer(x) [tokens, hidden].
  BackendCode (*layerForward)(DeviceLayerPass* pass, const float* x, int64_t tokens, float* y,
                              const BackendCancel* cancel, BackendFailure* failure);
  // dx [tokens, hidden] from x and dy at the layer's output; of each projection the sequence's Fisher scores
  // (linalg/fisher.h): with G = sum over tokens of g x^T, scores[p][0] = sum (G o W)^2, scores[p][1] = sum G^2,
  // scores[p][2] = sum |G o W|, unless they are null; and what `tapes` wants. With sums, which are null for
  // tables that do not add in place, dx and tapes may be null.
  BackendCode (*layerBackward)(DeviceLayerPass* pass, const float* x, int64_t tokens, const float* dy,
                               float* dx, double (*scores)[3], const BackendTapes* tapes,
                               const BackendSums* sums, const BackendCancel* cancel, BackendFailure* failure);
  // Whether layerBackward takes sums.
  bool (*addsInPlace)();

  // Final norm and lm_head over whole sequences. Calls on one pass may overlap.
  BackendCode (*createHeadPass)(DeviceModel* model, DeviceHeadPass** out, BackendFailure* failure);
  void (*releaseHeadPass)(DeviceHeadPass* pass);
  // From hidden states x [tokens, hidden] of the sequence `ids`: loss, the sum over its positions but the last
  // of -log p(next token) in nats, and dx [tokens, hidden], the gradient of that sum against `labels`. Numeric
  // if a logit is not finite.
  BackendCode (*headGradient)(DeviceHeadPass* pass, const float* x, const int32_t* ids, int64_t tokens,
                              const BackendLabels* labels, double* loss, float* dx, const BackendCancel* cancel,
                              BackendFailure* failure);

  // `count` sums of x x^T, each [n, n] with n = widths[i], to sums[i], its lower triangle packed by rows and
  // zeros as yet. They are there when finishMoments has returned; until then sums[i] may be in use.
  BackendCode (*createMoments)(DeviceModel* model, const int64_t* widths, double* const* sums, int64_t count,
                               DeviceMoments** out, BackendFailure* failure);
  void (*releaseMoments)(DeviceMoments* moments);
  // Adds rows x[i] [tokens, n] of one sequence to each: products in f32, added up over sequences in fp64.
  BackendCode (*addMoments)(DeviceMoments* moments, const float* const* x, int64_t tokens,
                            const BackendCancel* cancel, BackendFailure* failure);
  BackendCode (*finishMoments)(DeviceMoments* moments, const BackendCancel* cancel, BackendFailure* failure);

  // Numeric where W or a moment is not finite, or a moment that must be inverted is nothing.
  BackendCode (*factorize)(DeviceModel* model, const BackendFactoring* factoring, const BackendCancel* cancel,
                           BackendFailure* failure);

  // Of `count` projections with one input of n values.
  BackendCode (*createCurves)(DeviceModel* model, int64_t n, const BackendCurve* of, int64_t count,
                              DeviceCurves** out, BackendFailure* failure);
  void (*releaseCurves)(DeviceCurves* curves);
  // Adds one sequence to each curve: x [tokens, n], g[i] [tokens, m], out[i] [rank + 1].
  BackendCode (*addCurves)(DeviceCurves* curves, const float* x, const float* const* g, int64_t tokens,
                           double* const* out, const BackendCancel* cancel, BackendFailure* failure);

  // QR with column pivoting, as pivotedQr of linalg/pivot.h. Numeric where u is not finite.
  BackendCode (*pivotedQr)(DeviceModel* model, const float* u, int64_t s, int64_t m, double* r, int32_t* column,
                           int64_t* rank, const BackendCancel* cancel, BackendFailure* failure);

  // What has been found out so far while it computed, such as a way that is left out because it does not give
  // what another one does.
  void (*notes)(BackendNotes* out);
};

}  // namespace flrc
