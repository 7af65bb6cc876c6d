// OpenBLAS is loaded, not linked: it chooses its kernels in its load-time constructor, and the versions in
// current distributions take processors younger than themselves for AVX2 ones (half the speed on AVX-512
// machines). OPENBLAS_CORETYPE, which corrects that, must therefore be set before the library is loaded.
#include "base/blas.h"

#include <cstdlib>

#include <cblas.h>
#include <dlfcn.h>

#include "tern/device.h"
#include "tern/error.h"

namespace tern::blas {
namespace {

struct Library {
  decltype(&cblas_sgemm) sgemm = nullptr;
  decltype(&cblas_dgemm) dgemm = nullptr;
  std::string description;

  Library() {
    if (cpu_isa() == Isa::v4) setenv("OPENBLAS_CORETYPE", "SkylakeX", 0);
    void* handle = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr)
      throw_error(ExitCode::missing_input,
                  "blas: libopenblas.so.0 must be installed, got {}; run tools/install_dependencies.sh",
                  dlerror());
    sgemm = reinterpret_cast<decltype(sgemm)>(dlsym(handle, "cblas_sgemm"));
    dgemm = reinterpret_cast<decltype(dgemm)>(dlsym(handle, "cblas_dgemm"));
    require(sgemm != nullptr && dgemm != nullptr, "blas: libopenblas.so.0 lacks cblas_sgemm or cblas_dgemm");
    if (auto set_threads = reinterpret_cast<void (*)(int)>(dlsym(handle, "openblas_set_num_threads")))
      set_threads(1);
    description =
        text_of(handle, "openblas_get_config") + ", kernels for " + text_of(handle, "openblas_get_corename");
  }
  static std::string text_of(void* handle, const char* function) {
    const auto get = reinterpret_cast<char* (*)()>(dlsym(handle, function));
    return get ? get() : "unknown";
  }
};

const Library& library() {
  static const Library loaded;
  return loaded;
}
CBLAS_TRANSPOSE flag(Transpose transpose) { return transpose == Transpose::yes ? CblasTrans : CblasNoTrans; }

}  // namespace

void gemm(Transpose a, Transpose b, std::int64_t m, std::int64_t n, std::int64_t k, float alpha, const float* A,
          std::int64_t lda, const float* B, std::int64_t ldb, float beta, float* C, std::int64_t ldc) {
  library().sgemm(CblasRowMajor, flag(a), flag(b), static_cast<int>(m), static_cast<int>(n),
                  static_cast<int>(k), alpha, A, static_cast<int>(lda), B, static_cast<int>(ldb), beta, C,
                  static_cast<int>(ldc));
}

void gemm(Transpose a, Transpose b, std::int64_t m, std::int64_t n, std::int64_t k, double alpha,
          const double* A, std::int64_t lda, const double* B, std::int64_t ldb, double beta, double* C,
          std::int64_t ldc) {
  library().dgemm(CblasRowMajor, flag(a), flag(b), static_cast<int>(m), static_cast<int>(n),
                  static_cast<int>(k), alpha, A, static_cast<int>(lda), B, static_cast<int>(ldb), beta, C,
                  static_cast<int>(ldc));
}

std::string description() { return library().description; }

}  // namespace tern::blas
