// cuBLASLt is column-major: C^T = op(B)^T op(A)^T, so the operands change places and nothing is transposed.
// Split sums that are added in place in the order of arrival are excluded in deterministic mode.
#include "kernels/cuda/blas_products.h"

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <memory>
#include <mutex>

namespace tern::kernels {
namespace {

struct Types {
  cublasComputeType_t compute;
  cudaDataType_t scale, in, out;
};
Types types_of(ProductType type) {
  switch (type) {
    case ProductType::float32:
      return {CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_32F, CUDA_R_32F};
    case ProductType::tf32:
      return {CUBLAS_COMPUTE_32F_FAST_TF32, CUDA_R_32F, CUDA_R_32F, CUDA_R_32F};
    case ProductType::float64:
      return {CUBLAS_COMPUTE_64F, CUDA_R_64F, CUDA_R_64F, CUDA_R_64F};
    case ProductType::bfloat16:
      return {CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF, CUDA_R_16BF};
    case ProductType::bfloat16_to_float32:
      return {CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF, CUDA_R_32F};
  }
  throw_error(ExitCode::internal, "product: unknown type");
}

cublasLtEpilogue_t epilogue_of(ProductEpilogue epilogue) {
  switch (epilogue) {
    case ProductEpilogue::none:
      return CUBLASLT_EPILOGUE_DEFAULT;
    case ProductEpilogue::bias:
      return CUBLASLT_EPILOGUE_BIAS;
  }
  throw_error(ExitCode::internal, "product: unknown epilogue");
}
bool has_bias(ProductEpilogue epilogue) { return epilogue == ProductEpilogue::bias; }

/// Owns one of the library's descriptions.
template <class Handle, cublasStatus_t (*destroy)(Handle)>
class Description {
 public:
  Description() = default;
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;
  ~Description() {
    if (handle != nullptr) destroy(handle);
  }
  Handle handle = nullptr;
};
using Operation = Description<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using MatrixLayout = Description<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Description<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

struct Plan {
  Operation operation;
  MatrixLayout first, second, out;  ///< in the library's order: B, A, C
  cublasLtMatmulAlgo_t algorithm{};
  bool exists = false;
};

template <class V>
void set(const Operation& operation, cublasLtMatmulDescAttributes_t attribute, V value) {
  check_blas(cublasLtMatmulDescSetAttribute(operation.handle, attribute, &value, sizeof value),
             "cublasLtMatmulDescSetAttribute");
}
template <class V>
void set(const MatrixLayout& layout, cublasLtMatrixLayoutAttribute_t attribute, V value) {
  check_blas(cublasLtMatrixLayoutSetAttribute(layout.handle, attribute, &value, sizeof value),
             "cublasLtMatrixLayoutSetAttribute");
}
template <class V>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, V value) {
  check_blas(cublasLtMatmulPreferenceSetAttribute(preference.handle, attribute, &value, sizeof value),
             "cublasLtMatmulPreferenceSetAttribute");
}

/// The stored matrix: `rows` x `columns` row-major is columns x rows to the library.
void describe(MatrixLayout& layout, cudaDataType_t type, std::int64_t rows, std::int64_t columns,
              std::int64_t leading, const ProductShape& shape, std::int64_t stride) {
  check_blas(cublasLtMatrixLayoutCreate(&layout.handle, type, static_cast<std::uint64_t>(columns),
                                        static_cast<std::uint64_t>(rows), leading),
             "cublasLtMatrixLayoutCreate");
  if (shape.batch == 1) return;
  set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<std::int32_t>(shape.batch));
  set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride);
}

/// Bytes that a matrix's address is known to be a multiple of, at most 16.
std::uint32_t alignment_of(const void* pointer) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  return 1u << std::min(4, std::countr_zero(address | 16u));
}

struct PlanKey {
  int device;
  bool deterministic;
  std::uint32_t a, b, c;
  ProductShape shape;
  auto operator<=>(const PlanKey&) const = default;
};

void find_algorithm(Cuda& cuda, const PlanKey& key, Plan& plan) {
  Preference preference;
  check_blas(cublasLtMatmulPreferenceCreate(&preference.handle), "cublasLtMatmulPreferenceCreate");
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
      static_cast<std::uint64_t>(cuda.blas_workspace_bytes));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.b);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.a);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.c);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.c);
  // Parts of a split sum are added in the type of sums, in order: never rounded to the data's type on the way.
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(cuda.blas, plan.operation.handle, plan.first.handle, plan.second.handle,
                                     plan.out.handle, plan.out.handle, preference.handle, 1, &result, &found);
  const bool is_unsupported = status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE;
  if (!is_unsupported) check_blas(status, "cublasLtMatmulAlgoGetHeuristic");
  plan.exists = status == CUBLAS_STATUS_SUCCESS && found > 0;
  plan.algorithm = result.algo;
}

std::unique_ptr<Plan> make_plan(Cuda& cuda, const PlanKey& key) {
  const ProductShape& s = key.shape;
  const Types types = types_of(s.type);
  auto plan = std::make_unique<Plan>();
  check_blas(cublasLtMatmulDescCreate(&plan->operation.handle, types.compute, types.scale),
             "cublasLtMatmulDescCreate");
  const bool is_transposed_a = s.transpose_a == Transpose::yes,
             is_transposed_b = s.transpose_b == Transpose::yes;
  set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA,
      static_cast<std::int32_t>(is_transposed_b ? CUBLAS_OP_T : CUBLAS_OP_N));
  set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSB,
      static_cast<std::int32_t>(is_transposed_a ? CUBLAS_OP_T : CUBLAS_OP_N));
  set(plan->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(s.epilogue));
  if (has_bias(s.epilogue))
    set(plan->operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<std::int32_t>(types.out));
  describe(plan->first, types.in, is_transposed_b ? s.n : s.k, is_transposed_b ? s.k : s.n, s.ldb, s,
           s.stride_b);
  describe(plan->second, types.in, is_transposed_a ? s.k : s.m, is_transposed_a ? s.m : s.k, s.lda, s,
           s.stride_a);
  describe(plan->out, types.out, s.m, s.n, s.ldc, s, s.stride_c);
  find_algorithm(cuda, key, *plan);
  return plan;
}

std::mutex& plan_mutex() {
  static std::mutex mutex;
  return mutex;
}
/// The lock must be held; plans are never removed.
Plan& plan_for(Cuda& cuda, const ProductShape& shape, const void* a, const void* b, const void* c,
               const void* bias) {
  static auto* const plans = new std::map<PlanKey, std::unique_ptr<Plan>>;
  const PlanKey key{cuda.index,
                    cuda.options.deterministic,
                    alignment_of(a),
                    alignment_of(b),
                    std::min(alignment_of(c), alignment_of(bias)),
                    shape};
  std::unique_ptr<Plan>& plan = (*plans)[key];
  if (!plan) plan = make_plan(cuda, key);
  return *plan;
}

}  // namespace

bool has_blas_product(Cuda& cuda, const ProductShape& shape, const void* a, const void* b, const void* c,
                      const void* bias) {
  const std::scoped_lock lock(plan_mutex());
  return plan_for(cuda, shape, a, b, c, bias).exists;
}

void blas_product(Cuda& cuda, const ProductShape& shape, const void* a, const void* b, double beta, void* c,
                  const void* bias) {
  const std::scoped_lock lock(plan_mutex());
  const Plan& plan = plan_for(cuda, shape, a, b, c, bias);
  ensure(plan.exists, "product: cuBLASLt has no algorithm for m {} n {} k {}", shape.m, shape.n, shape.k);
  if (has_bias(shape.epilogue)) set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  const float one32 = 1, beta32 = static_cast<float>(beta);
  const double one64 = 1;
  const bool is_double = shape.type == ProductType::float64;
  check_blas(cublasLtMatmul(cuda.blas, plan.operation.handle,
                            is_double ? static_cast<const void*>(&one64) : &one32, b, plan.first.handle, a,
                            plan.second.handle, is_double ? static_cast<const void*>(&beta) : &beta32, c,
                            plan.out.handle, c, plan.out.handle, &plan.algorithm, cuda.blas_workspace,
                            cuda.blas_workspace_bytes, cuda.stream),
             "cublasLtMatmul");
}

}  // namespace tern::kernels
