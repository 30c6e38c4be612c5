#include "whitened.h"

#include <cmath>

#include "check.h"

namespace whitened {
namespace {

// Correlated features, as real activations are.
void fill(check::Random& random, Matrix& samples, double decay) {
  const int64_t width = samples.cols;
  Matrix latent(samples.rows, width), mix(width, width);
  for (double& value : mix.values) value = random.normal();
  for (int64_t t = 0; t < samples.rows; ++t) {
    for (int64_t j = 0; j < width; ++j) {
      latent.at(t, j) =
          random.normal() * std::pow(10, -decay * static_cast<double>(j) / static_cast<double>(width));
    }
  }
  samples = reference::product(latent, mix);
}

}  // namespace

Problem::Problem(uint64_t seed, int64_t rows, int64_t cols, int64_t tokensX, int64_t tokensG, double decay,
                 int whitening)
    : m(rows),
      n(cols),
      x(tokensX, cols),
      g(tokensG, rows),
      useA((whitening & 1) != 0),
      useB((whitening & 2) != 0) {
  check::Random random(seed);
  w = random.floats(m * n);
  fill(random, x, decay);
  fill(random, g, decay);
  a = reference::moment(x);
  b = reference::moment(g);
}

Matrix Problem::whitened(const Matrix& residual) const {
  const Matrix left = useB ? reference::product(g, residual) : residual;
  return useA ? reference::product(left, reference::transpose(x)) : left;
}

double Problem::error(const float* u, const float* v, int64_t rank) const {
  const Matrix left = reference::fromFloats(u, rank, m), right = reference::fromFloats(v, rank, n);
  const Matrix weight = reference::fromFloats(w.data(), m, n);
  return reference::norm(
      whitened(reference::difference(weight, reference::product(reference::transpose(left), right))));
}

std::vector<double> Problem::singular() const {
  return reference::singularValues(whitened(reference::fromFloats(w.data(), m, n)));
}

std::vector<double> optimalErrors(const std::vector<double>& singular, int64_t ranks) {
  std::vector<double> errors(static_cast<size_t>(ranks + 1));
  double squares = 0;
  for (int64_t r = static_cast<int64_t>(singular.size()); r-- > 0;) {
    squares += singular[static_cast<size_t>(r)] * singular[static_cast<size_t>(r)];
    if (r <= ranks) errors[static_cast<size_t>(r)] = std::sqrt(squares);
  }
  return errors;
}

}  // namespace whitened
