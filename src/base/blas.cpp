#include "base/blas.h"

#include <vector>

#include <cblas.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "tern/error.h"

/// OpenBLAS's work area for one call; it keeps what was freed for later calls. Exported, but in no header: null
/// where a build hides them.
extern "C" [[gnu::weak]] void* blas_memory_alloc(int position);
extern "C" [[gnu::weak]] void blas_memory_free(void* area);

namespace tern::blas {
namespace {

CBLAS_TRANSPOSE flag(bool transpose) { return transpose ? CblasTrans : CblasNoTrans; }

/// The library's own threads would fight with ours: each call stays on the thread that makes it.
const bool is_single_threaded = [] {
  openblas_set_num_threads(1);
  return true;
}();

}  // namespace

void gemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
          const float* A, std::int64_t lda, const float* B, std::int64_t ldb, float beta, float* C,
          std::int64_t ldc) {
  cblas_sgemm(CblasRowMajor, flag(transpose_a), flag(transpose_b), static_cast<int>(m), static_cast<int>(n),
              static_cast<int>(k), alpha, A, static_cast<int>(lda), B, static_cast<int>(ldb), beta, C,
              static_cast<int>(ldc));
}

void gemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, double alpha,
          const double* A, std::int64_t lda, const double* B, std::int64_t ldb, double beta, double* C,
          std::int64_t ldc) {
  cblas_dgemm(CblasRowMajor, flag(transpose_a), flag(transpose_b), static_cast<int>(m), static_cast<int>(n),
              static_cast<int>(k), alpha, A, static_cast<int>(lda), B, static_cast<int>(ldb), beta, C,
              static_cast<int>(ldc));
}

void reserve(int threads) {
  constexpr std::size_t area_bytes = 128 << 20, mebibyte = 1 << 20;  // BUFFER_SIZE of its x86-64 builds
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  const std::size_t bytes = area_bytes * static_cast<std::size_t>(threads);
  void* const room = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED)
    throw_error(ExitCode::failed,
                "memory: matrix products on {} threads take {} MiB of addresses, got a limit of {} MiB in all; "
                "raise it (ulimit -v) or lower the threads (run.threads, OMP_NUM_THREADS)",
                threads, bytes / mebibyte, limit.rlim_cur / mebibyte);
  munmap(room, bytes);
  if (blas_memory_alloc == nullptr || blas_memory_free == nullptr) return;
  std::vector<void*> areas;
  for (int i = 0; i < threads; ++i) areas.push_back(blas_memory_alloc(0));
  for (void* const area : areas) blas_memory_free(area);
}

std::string description() {
  return std::string(openblas_get_config()) + ", kernels for " + openblas_get_corename();
}

}  // namespace tern::blas
