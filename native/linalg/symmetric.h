#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace flrc {

// A symmetric n x n matrix in fp64, lower triangle packed by rows: element (i, j), j <= i, at
// i (i + 1) / 2 + j.
struct PackedSymmetric {
  int64_t n = 0;
  std::vector<double> values;

  explicit PackedSymmetric(int64_t size = 0) : n(size), values(static_cast<size_t>(size * (size + 1) / 2)) {}
  double meanDiagonal() const;
  // Full row-major [n, n].
  std::vector<double> dense() const;
  // M becomes (1 - share) M + share diag(M).
  void shrinkToDiagonal(double share);
};

// One in memory of somebody else's, or none.
struct SymmetricView {
  int64_t n = 0;
  const double* values = nullptr;

  SymmetricView(const PackedSymmetric* packed)
      : SymmetricView(packed ? packed->n : 0, packed ? packed->values.data() : nullptr) {}
  SymmetricView(const PackedSymmetric& packed) : SymmetricView(&packed) {}
  SymmetricView(int64_t size, const double* packed) : n(size), values(packed) {}
  explicit operator bool() const { return values != nullptr; }
  double meanDiagonal() const;
  std::vector<double> dense() const;
};

// Eigenvalues in falling order with eigenvectors as rows of `vectors` ([n, n], row-major); input row-major
// [n, n], only its lower triangle read, destroyed. LAPACK dsyevd, one thread.
void eigenSymmetric(int64_t n, std::vector<double>& matrix, std::vector<double>& values,
                    std::vector<double>& vectors);

}  // namespace flrc
