// Products of cuBLASLt, one per call. The algorithm that its heuristic names is kept for the life of the
// process, by shape, types, epilogue and alignment. The rest of the library's state is a stream and a workspace
// in Cuda.
#pragma once

#include <compare>
#include <cstdint>

#include "base/cuda.h"
#include "kernels/matmul.h"

namespace tern::kernels {

enum class ProductType { float32, tf32, float64, bfloat16, bfloat16_to_float32 };
enum class ProductEpilogue { none, bias };

/// Row-major C = epilogue(op(A) op(B) + beta C); op(A) is m x k, op(B) k x n. No extent may be 0.
struct ProductShape {
  ProductType type = ProductType::float32;
  ProductEpilogue epilogue = ProductEpilogue::none;  ///< bias [n] has the type of C
  Transpose transpose_a = Transpose::no, transpose_b = Transpose::no;
  std::int64_t batch = 1, m = 0, n = 0, k = 0;
  std::int64_t lda = 0, ldb = 0, ldc = 0;
  std::int64_t stride_a = 0, stride_b = 0, stride_c = 0;
  auto operator<=>(const ProductShape&) const = default;
};

template <class T>
ProductType product_type(const Cuda& cuda) {
  if constexpr (std::is_same_v<T, double>) return ProductType::float64;
  if constexpr (std::is_same_v<T, bfloat16>) return ProductType::bfloat16;
  return cuda.options.tf32 ? ProductType::tf32 : ProductType::float32;
}

/// Whether the library has an algorithm for this shape and these addresses.
bool has_blas_product(Cuda& cuda, const ProductShape& shape, const void* a, const void* b, const void* c,
                      const void* bias = nullptr);
/// Deterministic where cuda.options.deterministic. Throws where has_blas_product() is false.
void blas_product(Cuda& cuda, const ProductShape& shape, const void* a, const void* b, double beta, void* c,
                  const void* bias = nullptr);

}  // namespace tern::kernels
