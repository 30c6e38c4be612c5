#pragma once

#include <cblas.h>

#include <cstddef>
#include <cstdint>

namespace flrc {

// A dimension as BLAS takes it; E_INTERNAL when it does not fit.
int blasInt(int64_t value);

// OpenBLAS keeps to the calling thread from here on. To be called before any other BLAS or LAPACK function;
// cheap, and safe from any thread.
void useOneBlasThread();

}  // namespace flrc

// LAPACK's Fortran interface. The trailing size_t are the lengths gfortran passes for each character
// argument: left out, the callee may overwrite the caller's stack.
extern "C" {
void dpotrf_(const char* uplo, const int* n, double* a, const int* lda, int* info, size_t uploLength);
void dsyevd_(const char* jobz, const char* uplo, const int* n, double* a, const int* lda, double* w,
             double* work, const int* lwork, int* iwork, const int* liwork, int* info, size_t jobzLength,
             size_t uploLength);
void dgeqrf_(const int* m, const int* n, double* a, const int* lda, double* tau, double* work, const int* lwork,
             int* info);
void dorgqr_(const int* m, const int* n, const int* k, double* a, const int* lda, const double* tau,
             double* work, const int* lwork, int* info);
void dgeqp3_(const int* m, const int* n, double* a, const int* lda, int* jpvt, double* tau, double* work,
             const int* lwork, int* info);
void dgesv_(const int* n, const int* nrhs, double* a, const int* lda, int* ipiv, double* b, const int* ldb,
            int* info);
}
