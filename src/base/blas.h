// Matrix products of OpenBLAS, one thread each: the loops around them are ours. It chooses its kernels by
// processor; OPENBLAS_CORETYPE overrides that.
#pragma once

#include <cstdint>
#include <string>

namespace tern::blas {

/// C = alpha op(A) op(B) + beta C, row-major; op(A) is m x k, op(B) is k x n, each transposed where its flag
/// says so. Runs on the calling thread.
void gemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
          const float* A, std::int64_t lda, const float* B, std::int64_t ldb, float beta, float* C,
          std::int64_t ldc);
void gemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, double alpha,
          const double* A, std::int64_t lda, const double* B, std::int64_t ldb, double beta, double* C,
          std::int64_t ldc);

/// Where addresses are limited (ulimit -v): makes the library take the work areas of `threads` threads now,
/// since it looks for room without end where there is none. Error(failed) if there is none now.
void reserve(int threads);

/// Library and kernel set in use, such as "OpenBLAS 0.3.21 SkylakeX".
std::string description();

}  // namespace tern::blas
