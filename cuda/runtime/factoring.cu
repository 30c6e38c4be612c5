#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "kernels/eigen.h"
#include "kernels/factors.h"
#include "kernels/products.h"
#include "runtime/factoring.h"
#include "runtime/pieces.h"

namespace flrc::gpu {
namespace {

// As linalg/symmetric.cc raises it, relative to the mean diagonal.
constexpr double kMostJitter = 1e-2, kLeastRaisedJitter = 1e-12;

using Matrix = Buffer<double>;

size_t square(int64_t n) { return static_cast<size_t>(n * n); }
size_t packedCount(int64_t n) { return static_cast<size_t>(n * (n + 1) / 2); }

// What linalg/factors.cc does, in its words: W with its thin side first is X [thin, wide]; of the thin side's
// moment L L^T, X becomes L^T X; G is what X or `seen` makes of the wide side's moment.
class Factoring {
 public:
  Factoring(const BackendFactoring& from, Pieces& pieces)
      : from_(from),
        pieces_(pieces),
        tall_(from.m > from.n),
        thin_(static_cast<int>(std::min(from.m, from.n))),
        wide_(static_cast<int>(std::max(from.m, from.n))),
        rank_(static_cast<int>(from.rank)),
        thinMoment_(tall_ ? from.inputs : from.gradients),
        wideMoment_(tall_ ? from.gradients : from.inputs),
        broken_(1) {}
  ~Factoring() { pieces_.finish(); }
  Factoring(const Factoring&) = delete;
  Factoring& operator=(const Factoring&) = delete;

  void run() {
    pieces_.clear(broken_);
    loadWeights();
    if (thinMoment_) whitenThin();
    Matrix gram = from_.seen ? seenGram() : wideGram();
    upper_ = {};
    checkFinite();
    Matrix vectors = eigenvectors(std::move(gram));
    Matrix wideFactor(static_cast<size_t>(rank_) * static_cast<size_t>(wide_));
    multiply({vectors.read(), x_.read(), wideFactor.global(), rank_, wide_, thin_, false});
    download(wideFactor, wide_, tall_ ? from_.u : from_.v);
    if (thinMoment_) vectors = unwhitened(vectors);
    download(vectors, thin_, tall_ ? from_.v : from_.u);
  }

 private:
  Stream stream() { return pieces_.stream(); }

  void multiply(const ProductParams& params) { launchProduct(stream(), params, 1, pieces_.pace()); }

  void loadWeights() {
    const auto count = static_cast<size_t>(from_.m * from_.n);
    Buffer<float> w(count);
    x_ = Matrix(count);
    pieces_.upload(w, 0, from_.w, count);
    launchWiden(stream(), {w.read(), x_.global(), static_cast<int>(from_.m), static_cast<int>(from_.n), tall_,
                           broken_.global()});
    pieces_.finish();
  }

  Matrix unpacked(const double* packed, int n) {
    Matrix rows(packedCount(n)), full(square(n));
    pieces_.upload(rows, 0, packed, rows.count());
    launchUnpack(stream(), {rows.read(), full.global(), n, 0, broken_.global()});
    pieces_.finish();
    return full;
  }

  double meanDiagonal() const {
    double sum = 0;
    for (int64_t i = 0; i < thin_; ++i) sum += thinMoment_[i * (i + 1) / 2 + i];
    return sum / thin_;
  }

  // The Cholesky factor of the thin side's moment, which must be inverted, with as much on its diagonal as that
  // takes.
  void factorThin() {
    Matrix rows(packedCount(thin_)), moment(square(thin_));
    lower_ = Matrix(square(thin_));
    lengths_ = Matrix(static_cast<size_t>(kRowLengths) * static_cast<size_t>(thin_));
    pieces_.upload(rows, 0, thinMoment_, rows.count());
    const double mean = meanDiagonal();
    for (double jitter = from_.jitter;; jitter = std::max(jitter * 10, kLeastRaisedJitter)) {
      launchUnpack(stream(), {rows.read(), moment.global(), thin_, jitter * mean, broken_.global()});
      launchCholesky(stream(), {moment.read(), lower_.global(), lengths_.global(), thin_}, 1, pieces_.pace());
      checkFinite();
      if (isDefinite()) return;
      if (jitter * 10 > kMostJitter * (1 + 1e-9)) break;
    }
    throw Failure(BackendCode::numeric,
                  "a moment matrix of size " + std::to_string(thin_) + " (mean diagonal " +
                      std::to_string(mean) +
                      ") is not positive definite; give more calibration text or some shrinkage");
  }

  // Whether the factor's rows are all longer than what rounding leaves of a dependent one.
  bool isDefinite() {
    std::vector<double> lengths(lengths_.count());
    pieces_.download(lengths_, 0, lengths.data(), lengths.size());
    const auto n = static_cast<size_t>(thin_);
    const double least = std::sqrt(leastPivot(thin_)) * (1 + 1e-6);
    for (size_t i = 0; i < n; ++i) {
      if (!(lengths[kLeft * n + i] > least * lengths[kLength * n + i])) return false;
    }
    return true;
  }

  void whitenThin() {
    factorThin();
    upper_ = Matrix(square(thin_));
    launchUpper(stream(), {lower_.read(), lengths_.read(), upper_.global(), thin_});
    Matrix whitened(x_.count());
    multiply({upper_.read(), x_.read(), whitened.global(), thin_, wide_, thin_, false});
    pieces_.finish();
    x_ = std::move(whitened);
  }

  // Eigenproblems read one triangle of G, sketches multiply by all of it.
  bool isSketched() const { return from_.randomised && rank_ + std::max(0, from_.oversampling) < thin_; }

  // X M X^T with the wide side's moment M, or the identity.
  Matrix wideGram() {
    Matrix gram(square(thin_));
    if (!wideMoment_) {
      multiply({x_.read(), x_.read(), gram.global(), thin_, thin_, wide_, true, !isSketched()});
      pieces_.finish();
      return gram;
    }
    const Matrix moment = unpacked(wideMoment_, wide_);
    Matrix weighted(x_.count());
    multiply({x_.read(), moment.read(), weighted.global(), thin_, wide_, wide_, false});
    multiply({weighted.read(), x_.read(), gram.global(), thin_, thin_, wide_, true, !isSketched()});
    pieces_.finish();
    return gram;
  }

  // L^T K L for K = W M W^T, or K.
  Matrix seenGram() {
    Matrix seen = unpacked(from_.seen, thin_);
    if (!thinMoment_) return seen;
    Matrix weighted(square(thin_)), gram(square(thin_));
    multiply({upper_.read(), seen.read(), weighted.global(), thin_, thin_, thin_, false});
    multiply({weighted.read(), upper_.read(), gram.global(), thin_, thin_, thin_, true, !isSketched()});
    pieces_.finish();
    return gram;
  }

  // The first `rank` of G's eigenvectors, as rows; the roots of their eigenvalues to the host.
  Matrix eigenvectors(Matrix gram) {
    const int count = isSketched() ? rank_ + std::max(0, from_.oversampling) : thin_;
    Matrix shift(1), values(static_cast<size_t>(count)),
        vectors(static_cast<size_t>(count) * static_cast<size_t>(thin_)), rows(square(count)),
        lengths(static_cast<size_t>(kRowLengths) * static_cast<size_t>(count));
    Buffer<uint32_t> busy(kEigenSweeps);
    if (!isSketched()) {
      launchShift(stream(), {gram.global(), thin_, shift.global()}, 1);
      launchEigen(stream(),
                  {gram.read(), thin_, shift.read(), rows.global(), lengths.global(), busy.global(),
                   values.global(), vectors.global()},
                  1, pieces_.pace());
      downloadValues(values);
      return vectors;
    }
    Matrix q(vectors.count()), image(vectors.count()), small(square(count)), basis(square(count));
    Buffer<uint64_t> seed(&from_.seed, 1);
    launchSketchedEigen(stream(),
                        {gram.read(), thin_, count, from_.powerIterations, seed.read(), q.global(),
                         image.global(), small.global(), rows.global(), basis.global(), lengths.global(),
                         busy.global(), shift.global(), values.global(), vectors.global()},
                        1, pieces_.pace());
    downloadValues(values);
    return vectors;
  }

  void downloadValues(const Matrix& values) {
    pieces_.download(values, 0, from_.singular, static_cast<size_t>(rank_));
    for (double* value = from_.singular; value < from_.singular + rank_; ++value) {
      if (!std::isfinite(*value)) notFinite();
      *value = std::sqrt(std::max(*value, 0.0));
    }
  }

  // E L^-1 for the first rows of E.
  Matrix unwhitened(const Matrix& vectors) {
    Matrix inverse(square(thin_)), out(static_cast<size_t>(rank_) * static_cast<size_t>(thin_));
    launchIdentity(stream(), {inverse.global(), thin_});
    launchSubstitute(stream(), {inverse.global(), thin_, thin_, lower_.read(), lengths_.read()}, 1,
                     pieces_.pace());
    multiply({vectors.read(), inverse.read(), out.global(), rank_, thin_, thin_, false});
    pieces_.finish();
    return out;
  }

  // The first `rank` rows of a factor.
  void download(const Matrix& factor, int width, float* to) {
    const size_t count = static_cast<size_t>(rank_) * static_cast<size_t>(width);
    // Where there is no room for it, the factor is freed.
    pieces_.finish();
    Buffer<float> narrow(count);
    launchNarrow(stream(), {factor.read(), narrow.global(), static_cast<int64_t>(count)});
    pieces_.download(narrow, 0, to, count);
  }

  void checkFinite() {
    uint32_t broken = 0;
    pieces_.download(broken_, 0, &broken, 1);
    if (broken > 0) notFinite();
  }

  [[noreturn]] static void notFinite() {
    throw Failure(BackendCode::numeric, "a weight or a moment is not finite");
  }

  const BackendFactoring& from_;
  Pieces& pieces_;
  const bool tall_;
  const int thin_, wide_, rank_;
  const double *thinMoment_, *wideMoment_;
  Buffer<uint32_t> broken_;
  Matrix x_, lower_, lengths_, upper_;
};

// At its peak, the wide side's moment among it.
double bytesOf(const BackendFactoring& from) {
  const auto thin = static_cast<double>(std::min(from.m, from.n)),
             wide = static_cast<double>(std::max(from.m, from.n));
  const bool takesWide = from.m > from.n ? from.gradients : from.inputs;
  const double moment = takesWide ? 1.5 * wide * wide : 0;
  return (2.5 * thin * wide + std::max(moment, 3 * thin * thin) + 3 * thin * thin) * sizeof(double);
}

}  // namespace

void factorizeProjection(const BackendFactoring& factoring, const BackendCancel& cancel) {
  const Alone alone(cancel);
  checkRoom("factorising a projection of " + std::to_string(factoring.m) + "x" + std::to_string(factoring.n),
            bytesOf(factoring));
  Pieces pieces(cancel);
  Factoring(factoring, pieces).run();
}

}  // namespace flrc::gpu
