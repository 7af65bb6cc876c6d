// Products through cuBLASLt and linear layers on them; deterministic where cuda.options.deterministic. Bias and
// relu are epilogues of the product where the library has them for the types at hand, else one more pass over
// y.
#include "kernels/cuda/activation.h"
#include "kernels/cuda/blas_products.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/narrow_linear.h"
#include "kernels/cuda/weight_gradient.h"
#include "kernels/matmul.h"
#include "kernels/reduce.h"

namespace tern::kernels {
namespace {

constexpr std::int64_t most_batches = 32768;  ///< of one product: below the limit of a grid

template <class T>
__global__ void scale_kernel(std::int64_t count, Accumulate<T> beta, T* c) {
  for (std::int64_t i = thread_index(); i < count; i += grid_threads())
    c[i] = beta == 0 ? from_accumulate<T>(0) : from_accumulate<T>(beta * to_accumulate(c[i]));
}

template <class T>
__global__ void round_kernel(std::int64_t count, const Accumulate<T>* x, T* y) {
  for (std::int64_t i = thread_index(); i < count; i += grid_threads()) y[i] = from_accumulate<T>(x[i]);
}

/// A bias in the type of y, as the library's epilogues want it.
template <class T>
class BiasOf {
 public:
  BiasOf(Cuda& cuda, const Accumulate<T>* bias, std::int64_t count)
      : rounded_(cuda, needs_rounding && bias != nullptr ? count : 0), bias_(bias) {
    if (!needs_rounding || bias == nullptr) return;
    round_kernel<T><<<grid_for(cuda, count, 256), 256, 0, cuda.stream>>>(count, bias, rounded_.data());
    check_launch("linear");
    bias_ = rounded_.data();
  }
  const void* data() const { return bias_; }

 private:
  static constexpr bool needs_rounding = !std::is_same_v<T, Accumulate<T>>;
  Scratch<T> rounded_;
  const void* bias_;
};

/// C = beta C, what is left of a product without terms.
template <class T>
void scale(Cuda& cuda, std::int64_t count, Accumulate<T> beta, T* c) {
  if (count == 0 || beta == 1) return;
  scale_kernel<T><<<grid_for(cuda, count, 256), 256, 0, cuda.stream>>>(count, beta, c);
  check_launch("matmul");
}

/// A product of few tiles and a long inner axis leaves most of a GPU without work: pieces of the axis are
/// products of their own, added in order.
struct AxisPieces {
  std::int64_t whole = 0, length = 0, rest = 0;  ///< whole pieces of `length` terms and one of `rest`
  std::int64_t count() const { return whole + (rest > 0 ? 1 : 0); }
};
constexpr std::int64_t tile_width = 64, most_split_tiles = 16, wanted_tiles = 256, fewest_terms = 512;

AxisPieces axis_pieces(const MatmulShape& s) {
  const auto tiles_of = [](std::int64_t width) { return (width + tile_width - 1) / tile_width; };
  const std::int64_t tiles = s.batch * tiles_of(s.m) * tiles_of(s.n);
  if (tiles > most_split_tiles || s.k < 16 * fewest_terms) return {};
  const std::int64_t wanted = std::max(fewest_terms, s.k / (wanted_tiles / tiles));
  const std::int64_t length = (wanted + tile_width - 1) / tile_width * tile_width;
  return {s.k / length, length, s.k % length};
}

/// C = op(A) op(B) by pieces of the inner axis; `shape` is that of one product.
template <class T>
void split_matmul(Cuda& cuda, const MatmulShape& s, ProductShape shape, const AxisPieces& pieces, const T* a,
                  const T* b, T* c) {
  const Scratch<T> partial(cuda, s.batch * pieces.count() * s.m * s.n);
  shape.stride_a = pieces.length * (s.transpose_a == Transpose::yes ? s.m : 1);
  shape.stride_b = pieces.length * (s.transpose_b == Transpose::yes ? 1 : s.n);
  shape.stride_c = s.m * s.n;
  for (std::int64_t i = 0; i < s.batch; ++i) {
    const T *first_a = a + i * s.stride_a, *first_b = b + i * s.stride_b;
    T* const sums = partial.data() + i * pieces.count() * s.m * s.n;
    shape.batch = pieces.whole, shape.k = pieces.length;
    blas_product(cuda, shape, first_a, first_b, 0, sums);
    if (pieces.rest == 0) continue;
    shape.batch = 1, shape.k = pieces.rest;
    blas_product(cuda, shape, first_a + pieces.whole * shape.stride_a, first_b + pieces.whole * shape.stride_b,
                 0, sums + pieces.whole * shape.stride_c);
  }
  sum<T>(cuda, {s.batch, pieces.count(), s.m * s.n}, partial.data(), c);
}

/// Whether one kernel sums both gradients of the parameters.
template <class T>
bool takes_narrow_gradient(Rows<const T> x, std::int64_t outputs, const T* d) {
  if constexpr (std::is_same_v<T, bfloat16>)
    return has_narrow_weight_gradient(x, outputs, d);
  else
    return false;
}

/// dweight += d^T x, summed over rows in Accumulate precision.
template <class T>
void add_weight_gradient(Cuda& cuda, Rows<const T> x, std::int64_t outputs, const T* d,
                         Accumulate<T>* dweight) {
  ProductShape shape;
  shape.type = std::is_same_v<T, bfloat16> ? ProductType::bfloat16_to_float32 : product_type<T>(cuda);
  shape.transpose_a = Transpose::yes;
  shape.m = outputs, shape.n = x.width, shape.k = x.rows;
  shape.lda = outputs, shape.ldb = x.stride, shape.ldc = x.width;
  blas_product(cuda, shape, d, x.data, 1, dweight);
}

template <class T>
ProductShape forward_shape(const Cuda& cuda, Rows<const T> x, std::int64_t outputs) {
  ProductShape shape;
  shape.type = product_type<T>(cuda);
  shape.transpose_b = Transpose::yes;
  shape.m = x.rows, shape.n = outputs, shape.k = x.width;
  shape.lda = x.stride, shape.ldb = x.width, shape.ldc = outputs;
  return shape;
}

/// dx = d weight.
template <class T>
void multiply_back(Cuda& cuda, Rows<const T> d, const T* weight, std::int64_t width, T* dx) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    const NarrowLinear work{d, width, weight, Transpose::no, nullptr, Activation::none, nullptr, dx};
    if (has_narrow_linear(work)) return narrow_linear(cuda, work);
  }
  ProductShape shape;
  shape.type = product_type<T>(cuda);
  shape.m = d.rows, shape.n = width, shape.k = d.width;
  shape.lda = d.stride, shape.ldb = width, shape.ldc = width;
  blas_product(cuda, shape, d.data, weight, 0, dx);
}

}  // namespace

template <class T>
void matmul(Cuda& cuda, const MatmulShape& s, const T* a, const T* b, Accumulate<T> beta, T* c) {
  if (s.batch == 0 || s.m == 0 || s.n == 0) return;
  if (s.k == 0) {
    for (std::int64_t i = 0; i < s.batch; ++i) scale<T>(cuda, s.m * s.n, beta, c + i * s.stride_c);
    return;
  }
  ProductShape shape;
  shape.type = product_type<T>(cuda);
  shape.transpose_a = s.transpose_a, shape.transpose_b = s.transpose_b;
  shape.m = s.m, shape.n = s.n, shape.k = s.k;
  shape.lda = s.transpose_a == Transpose::yes ? s.m : s.k;
  shape.ldb = s.transpose_b == Transpose::yes ? s.k : s.n;
  shape.ldc = s.n;
  if constexpr (!std::is_same_v<T, bfloat16>) {  // pieces of bfloat16 would be rounded
    const AxisPieces pieces = axis_pieces(s);
    const bool is_dense = s.batch == 1 || s.stride_c == s.m * s.n;
    if (pieces.count() > 1 && beta == 0 && is_dense) return split_matmul(cuda, s, shape, pieces, a, b, c);
  }
  if (s.batch > 1) shape.stride_a = s.stride_a, shape.stride_b = s.stride_b, shape.stride_c = s.stride_c;
  for (std::int64_t first = 0; first < s.batch; first += most_batches) {
    shape.batch = std::min(most_batches, s.batch - first);
    blas_product(cuda, shape, a + first * s.stride_a, b + first * s.stride_b, beta, c + first * s.stride_c);
  }
}

template <class T>
void linear_forward(Cuda& cuda, Rows<const T> x, const T* weight, const Accumulate<T>* bias,
                    std::int64_t outputs, Activation activation, T* before, T* y) {
  if (x.rows == 0 || outputs == 0) return;
  if constexpr (std::is_same_v<T, bfloat16>) {
    const NarrowLinear work{
        x, outputs, weight, Transpose::yes, bias, activation, activation == Activation::gelu ? before : nullptr,
        y};
    if (has_narrow_linear(work)) return narrow_linear(cuda, work);
  }
  ProductShape shape = forward_shape(cuda, x, outputs);
  T* const sums = activation == Activation::gelu && before != nullptr ? before : y;
  if (x.width == 0) {
    scale<T>(cuda, x.rows * outputs, 0, sums);
  } else {
    if (activation == Activation::none && bias != nullptr) {  // the library's relu would hide a NaN
      shape.epilogue = ProductEpilogue::bias;
      const BiasOf<T> rounded(cuda, bias, outputs);
      if (has_blas_product(cuda, shape, x.data, weight, sums, rounded.data()))
        return blas_product(cuda, shape, x.data, weight, 0, sums, rounded.data());
    }
    shape.epilogue = ProductEpilogue::none;
    blas_product(cuda, shape, x.data, weight, 0, sums);
  }
  if (bias == nullptr && activation == Activation::none) return;
  activate<T>(cuda, {x.rows, outputs, activation, sums, bias, nullptr,
                     activation == Activation::gelu && bias != nullptr ? before : nullptr, y});
}

template <class T>
void linear_backward(Cuda& cuda, Rows<const T> x, const T* weight, std::int64_t outputs, Activation activation,
                     const T* saved, const T* dy, T* dx, Accumulate<T>* dweight, Accumulate<T>* dbias) {
  if (x.rows == 0) return;
  if (outputs == 0) {
    if (dx != nullptr) scale<T>(cuda, x.rows * x.width, 0, dx);
    return;
  }
  const bool is_plain = activation == Activation::none;
  const Scratch<T> slope(cuda, is_plain ? 0 : x.rows * outputs);
  const T* const d = is_plain ? dy : slope.data();
  const bool is_narrow = dweight != nullptr && takes_narrow_gradient(x, outputs, d);
  if (!is_plain || (dbias != nullptr && !is_narrow))
    activation_backward<T>(cuda, {x.rows, outputs, activation, is_plain ? nullptr : saved, nullptr, dy,
                                  is_plain ? nullptr : slope.data(), nullptr, is_narrow ? nullptr : dbias});
  if (x.width == 0) return;
  if (dx != nullptr) multiply_back<T>(cuda, {d, x.rows, outputs, outputs}, weight, x.width, dx);
  if (dweight == nullptr) return;
  if constexpr (std::is_same_v<T, bfloat16>)
    if (is_narrow) return narrow_weight_gradient(cuda, x, outputs, d, dweight, dbias);
  add_weight_gradient(cuda, x, outputs, d, dweight);
}

#define INSTANTIATE(T)                                                                                 \
  template void matmul<T>(Cuda&, const MatmulShape&, const T*, const T*, Accumulate<T>, T*);           \
  template void linear_forward<T>(Cuda&, Rows<const T>, const T*, const Accumulate<T>*, std::int64_t,  \
                                  Activation, T*, T*);                                                 \
  template void linear_backward<T>(Cuda&, Rows<const T>, const T*, std::int64_t, Activation, const T*, \
                                   const T*, T*, Accumulate<T>*, Accumulate<T>*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
