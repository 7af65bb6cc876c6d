// Linear attention in bfloat16 on tensor cores, with features computed where rows meet the products. With
// M = sum_j phi(k_j) v_j^T and z = sum_j phi(k_j) of a sequence and head, r_i = 1 / (phi(q_i) . z + epsilon)
// and s_i = dy_i . y_i:
//
//   y_i = r_i M^T phi(q_i)                     dq_i = phi'(q_i) r_i (M dy_i - s_i z)
//   dM = sum_i r_i phi(q_i) dy_i^T             dk_j = phi'(k_j) (dM v_j + dz)
//   dz = -sum_i r_i s_i phi(q_i)               dv_j = dM^T phi(k_j)
//
// Deterministic. Matrices are summed in float32 and kept in bfloat16, in which they meet the rows. The backward
// pass holds one of them for each sequence and head; everything else lies in the gradients that are written
// last.
#include "kernels/cuda/outer_sum_tiles.cuh"
#include "kernels/cuda/row_product_tiles.cuh"
#include "kernels/linear_attention.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256;

/// Memory of a call: that of a tensor which is written later, or its own where that is too small.
class WorkArea {
 public:
  WorkArea(Cuda& cuda, std::int64_t floats, const Heads<bfloat16>* later)
      : fits_(later != nullptr && floats * 2 <= later->tokens * later->heads * later->width &&
              is_aligned(16, later->data)),
        own_(cuda, fits_ ? 0 : floats),
        data_(fits_ ? reinterpret_cast<float*>(later->data) : own_.data()) {}
  float* data() const { return data_; }

 private:
  bool fits_;
  Scratch<float> own_;
  float* data_;
};

/// Numbers of the chunks' matrices and totals.
std::int64_t partial_floats(const Sequences& sequences, int heads, int width) {
  const int chunks = chunks_of<float>(sequences, nullptr, nullptr).count;
  return sequences.count * heads * chunks * (std::int64_t{width} * width + width);
}
/// The sums of task.sums.a and b go to `matrices` and `totals`, those of chunks to `partial`.
void sum_products(Cuda& cuda, const Sequences& sequences, SumTask task, float* partial, bfloat16* matrices,
                  float* totals) {
  const int heads = task.sums.a.heads, width = task.sums.a.width;
  const std::int64_t pairs = sequences.count * heads, size = std::int64_t{width} * width;
  if (pairs == 0) return;
  Chunks<float> chunks = chunks_of(sequences, partial, static_cast<float*>(nullptr));
  chunks.totals = task.sums.totals = partial + pairs * chunks.count * size;
  const auto tiles = static_cast<unsigned>((width + product_tile - 1) / product_tile);
  const dim3 grid(static_cast<unsigned>(sequences.count * chunks.count), static_cast<unsigned>(heads),
                  tiles * tiles);
  sum_tiles<true><<<grid, outer_threads, 0, cuda.stream>>>(sequences, task, chunks);
  check_launch("linear_attention: sums");
  add_chunks<<<grid_for(cuda, pairs * size, threads_per_block), threads_per_block, 0, cuda.stream>>>(
      sequences, chunks, partial, heads, size, matrices);
  add_chunks<<<grid_for(cuda, pairs * width, threads_per_block), threads_per_block, 0, cuda.stream>>>(
      sequences, chunks, chunks.totals, heads, width, totals);
  check_launch("linear_attention: totals");
}

template <bool is_transposed>
void multiply(Cuda& cuda, const Sequences& sequences, const RowProducts<bfloat16>& products,
              const MappedRows& rows) {
  multiply_tiles<is_transposed, MappedRows>
      <<<product_grid(sequences, products, block_rows, product_tile), product_threads, 0, cuda.stream>>>(
          sequences, products, parts_of(sequences, block_rows), rows);
  check_launch("linear_attention: products");
}

/// inverse = r and dots = -s of each row, [tokens, heads]; eight lanes take a row.
__global__ void __launch_bounds__(threads_per_block)
    measure_rows(Sequences sequences, Heads<const bfloat16> q, Heads<const bfloat16> y,
                 Heads<const bfloat16> dy, const float* totals, float epsilon, float* inverse, float* dots) {
  constexpr int lanes = 8;
  const std::int64_t rows = q.tokens * q.heads, step = grid_threads() / lanes;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  // whole warps stay together for the sums
  for (std::int64_t base = thread_index() / warp_lanes * (warp_lanes / lanes); base < rows; base += step) {
    const std::int64_t place = base + static_cast<int>(threadIdx.x) % warp_lanes / lanes,
                       token = place / q.heads;
    const int head = static_cast<int>(place % q.heads),
              sequence = place < rows ? find_sequence(sequences, static_cast<int>(token)).index : 0;
    const bool is_used = place < rows && sequence < sequences.count;
    const float* const z = totals + (std::int64_t{sequence} * q.heads + head) * q.width;
    float divisor = 0, dot = 0;
    for (int c = lane * 8; c < q.width && is_used; c += lanes * 8) {
      const Pack<bfloat16, 8> query = load_pack<8>(row_of(q, token, head) + c),
                              value = load_pack<8>(row_of(y, token, head) + c),
                              slope = load_pack<8>(row_of(dy, token, head) + c);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        divisor += elu_plus_one(to_accumulate(query.item[i])) * z[c + i];
        dot += to_accumulate(value.item[i]) * to_accumulate(slope.item[i]);
      }
    }
    divisor = warp_sum(divisor, lanes) + epsilon;
    dot = warp_sum(dot, lanes);
    if (lane > 0 || place >= rows) continue;
    inverse[place] = is_used ? 1 / divisor : 0.0f;
    dots[place] = is_used ? -dot : 0.0f;
  }
}

template <class... T>
bool are_served(const Heads<T>&... x) {
  return (rows_are_packed(x) && ...);
}

using Use = RowTotals<bfloat16>::Use;

}  // namespace

bool linear_attention_forward(Cuda& cuda, const Sequences& sequences, const AttentionInputs<bfloat16>& in,
                              double epsilon, Heads<bfloat16> y) {
  if (!are_served(in.q, in.k, in.v, y)) return false;
  const int heads = y.heads, width = y.width;
  if (y.tokens == 0 || heads == 0) return true;
  const std::int64_t pairs = sequences.count * heads;
  const Scratch<bfloat16> matrices(cuda, pairs * width * width);
  const Scratch<float> totals(cuda, pairs * width);
  const WorkArea partial(cuda, partial_floats(sequences, heads, width), &y);
  sum_products(cuda, sequences, {{in.k, in.v, nullptr}}, partial.data(), matrices.data(), totals.data());
  multiply<false>(cuda, sequences,
                  {in.q,
                   nullptr,
                   MatrixOrder::plain,
                   y,
                   {.use = Use::divide, .vectors = totals.data(), .epsilon = epsilon}},
                  {.matrices = matrices.data(), .maps_rows = true});
  return true;
}

void linear_attention_backward(Cuda& cuda, const Sequences& sequences, const AttentionInputs<bfloat16>& in,
                               double epsilon, Heads<const bfloat16> y, Heads<const bfloat16> dy,
                               const AttentionGradients<bfloat16>& out) {
  const int heads = y.heads, width = y.width;
  if (y.tokens == 0 || heads == 0) return;
  const std::int64_t pairs = sequences.count * heads, rows = y.tokens * heads;
  const Scratch<bfloat16> matrices(cuda, pairs * width * width);
  const WorkArea partial(cuda, partial_floats(sequences, heads, width), &out.dk),
      numbers(cuda, 2 * rows + pairs * width, &out.dv);
  float *const inverse = numbers.data(), *const dots = inverse + rows, *const totals = dots + rows;
  sum_products(cuda, sequences, {{in.k, in.v, nullptr}}, partial.data(), matrices.data(), totals);
  measure_rows<<<grid_for(cuda, rows * 8, threads_per_block, 16), threads_per_block, 0, cuda.stream>>>(
      sequences, in.q, y, dy, totals, static_cast<float>(epsilon), inverse, dots);
  check_launch("linear_attention: rows");
  multiply<true>(
      cuda, sequences,
      {dy, nullptr, MatrixOrder::transposed, out.dq, {.use = Use::add, .vectors = totals, .weights = dots}},
      {.matrices = matrices.data(), .factors = inverse, .slopes = in.q});
  sum_products(cuda, sequences, {{in.q, dy, nullptr, nullptr, dots}, inverse}, partial.data(), matrices.data(),
               totals);
  multiply<true>(cuda, sequences,
                 {in.v, nullptr, MatrixOrder::transposed, out.dk, {.use = Use::add, .vectors = totals}},
                 {.matrices = matrices.data(), .slopes = in.k});
  multiply<false>(cuda, sequences, {in.k, nullptr, MatrixOrder::plain, out.dv},
                  {.matrices = matrices.data(), .maps_rows = true});
}

}  // namespace tern::kernels
