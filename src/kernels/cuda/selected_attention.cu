// Attention to selected segments. Queries (forward, dq): a warp takes a query and head; lanes take 32 of its
// keys for the products and the columns for the sums. Keys (dk, dv): a block takes eight keys of a segment, a
// warp each, and gathers the queries that see the segment, in order. Deterministic: sums have a fixed order.
// bfloat16 rows in packs go to selected_attention_packed.cu.
#include <cmath>
#include <limits>

#include "kernels/cuda/selected_attention.cuh"
#include "kernels/cuda/selected_attention.h"

namespace tern::kernels {
namespace {

template <class T>
__device__ __forceinline__ Accumulate<T> dot(const T* a, const T* b, int width) {
  Accumulate<T> sum = 0;
#pragma unroll 8
  for (int c = 0; c < width; ++c) sum += to_accumulate(a[c]) * to_accumulate(b[c]);
  return sum;
}

/// sums[c] = decay sums[c] + sum over the lanes of their factor times row(lane)[c]; a lane without a row has
/// the factor 0.
template <class A, class Row>
__device__ __forceinline__ void add_rows(A* sums, int width, A decay, A factor, int place, const Row& row) {
  for (int first = 0; first < width; first += warp_lanes) {
    const int c = first + lane_of_thread();
    A sum = c < width ? decay * sums[c] : A(0);
    for (int lane = 0; lane < warp_lanes; ++lane) {
      const A weight = __shfl_sync(all_lanes, factor, lane);
      const int from = __shfl_sync(all_lanes, place, lane);
      if (from >= 0 && c < width) sum += weight * to_accumulate(row(from)[c]);
    }
    if (c < width) sums[c] = sum;
  }
}

/// A lane touches the same columns of its warp's sums everywhere.
template <class A>
__device__ __forceinline__ void clear_row(A* sums, int width) {
  for (int c = lane_of_thread(); c < width; c += warp_lanes) sums[c] = 0;
}
template <class T>
__device__ __forceinline__ void store_row(const Accumulate<T>* sums, Accumulate<T> factor, int width, T* to) {
  for (int c = lane_of_thread(); c < width; c += warp_lanes) to[c] = from_accumulate<T>(factor * sums[c]);
}

template <class T>
__global__ void __launch_bounds__(query_threads)
    attend(Sequences sequences, AttentionInputs<T> in, SelectedOptions options, Heads<T> out,
           Accumulate<T>* lse) {
  using A = Accumulate<T>;
  extern __shared__ double memory[];
  const int width = in.q.width;
  A* const sums = reinterpret_cast<A*>(memory) + warp_of_block() * width;
  for_each_query(sequences, in.q, [&](const QueryRow& row) {
    const int head = row.head;
    const T* const q = row_of(in.q, row.query, head);
    A top = -std::numeric_limits<A>::infinity(), total = 0;
    clear_row(sums, width);
    for_seen_keys(options, in.q.tokens, in.q.heads, row, [&](int key) {
      const A score = key >= 0 ? static_cast<A>(options.scale) * dot(q, row_of(in.k, key, head), width)
                               : -std::numeric_limits<A>::infinity();
      const A largest = warp_max(score), raised = largest > top ? largest : top;
      const A decay = std::exp(top - raised), weight = std::exp(score - raised);
      total = total * decay + warp_sum(weight);
      top = raised;
      add_rows(sums, width, decay, weight, key, [&](int j) { return row_of(in.v, j, head); });
    });
    store_row(sums, total > A(0) ? A(1) / total : A(0), width, row_of(out, row.query, head));
    if (lane_of_thread() == 0) lse[head * in.q.tokens + row.query] = top + std::log(total);
  });
}

/// dq, and the products of dout and out.
template <class T>
__global__ void __launch_bounds__(query_threads)
    differentiate_queries(Sequences sequences, BackwardInputs<T> inputs, Heads<T> dq) {
  using A = Accumulate<T>;
  extern __shared__ double memory[];
  const AttentionInputs<T>& in = inputs.in;
  const int width = in.q.width;
  A* const sums = reinterpret_cast<A*>(memory) + warp_of_block() * width;
  for_each_query(sequences, in.q, [&](const QueryRow& row) {
    const int head = row.head;
    const T *q = row_of(in.q, row.query, head), *dy = row_of(inputs.dout, row.query, head),
            *y = row_of(inputs.result.out, row.query, head);
    const std::int64_t place = head * in.q.tokens + row.query;
    A product = 0;
    for (int c = lane_of_thread(); c < width; c += warp_lanes)
      product += to_accumulate(dy[c]) * to_accumulate(y[c]);
    product = warp_sum(product);
    if (lane_of_thread() == 0) inputs.products[place] = product;
    const A scale = static_cast<A>(inputs.options.scale), lse = inputs.result.lse[place];
    clear_row(sums, width);
    for_seen_keys(inputs.options, in.q.tokens, in.q.heads, row, [&](int key) {
      A slope = 0;
      if (key >= 0) {
        const A weight = std::exp(scale * dot(q, row_of(in.k, key, head), width) - lse);
        slope = scale * weight * (dot(dy, row_of(in.v, key, head), width) - product);
      }
      add_rows(sums, width, A(1), slope, key, [&](int j) { return row_of(in.k, j, head); });
    });
    store_row(sums, A(1), width, row_of(dq, row.query, head));
  });
}

/// Which queries of 256 see a segment: their places in `seen`, in order; the number in every thread.
__device__ __forceinline__ int gather_queries(const std::int32_t* masks, int first, int end, int bit,
                                              int* seen) {
  __shared__ int found[key_warps];
  const int query = first + static_cast<int>(threadIdx.x);
  const bool sees = query < end && (masks[query] >> bit & 1) != 0;
  const unsigned ballot = __ballot_sync(all_lanes, sees);
  __syncthreads();  // nobody reads the last queries any more
  if (lane_of_thread() == 0) found[warp_of_block()] = __popc(ballot);
  __syncthreads();
  int before = 0, total = 0;
  for (int warp = 0; warp < key_warps; ++warp) {
    if (warp < warp_of_block()) before += found[warp];
    total += found[warp];
  }
  if (sees) seen[before + __popc(ballot & ((1u << lane_of_thread()) - 1))] = query;
  __syncthreads();
  return total;
}

/// Block b: sequence, head, segment and a part of its keys. Rows of dk and dv that no block owns are zero
/// already.
template <class T>
__global__ void __launch_bounds__(key_threads)
    differentiate_keys(Sequences sequences, BackwardInputs<T> inputs, int parts, Heads<T> dk, Heads<T> dv) {
  using A = Accumulate<T>;
  extern __shared__ double memory[];
  __shared__ int seen[key_threads];
  const AttentionInputs<T>& in = inputs.in;
  const int heads = in.q.heads, width = in.q.width;
  A* const key_sums = reinterpret_cast<A*>(memory) + 2 * warp_of_block() * width;
  A* const value_sums = key_sums + width;
  const std::int64_t tasks = sequences.count * heads * inputs.options.size.segments * parts;
  for (std::int64_t index = blockIdx.x; index < tasks; index += gridDim.x) {
    const KeyTask task = key_task(sequences, inputs.options, in.q.tokens, heads, parts, index);
    const auto& [range, keys, head, part, masks, bit] = task;
    if (part * key_warps >= keys.taken) continue;
    const int place_of_key = part * key_warps + warp_of_block();
    const bool has_key = place_of_key < keys.taken;
    const int key = range.begin + (has_key ? keys.key(place_of_key) : 0);
    const A scale = static_cast<A>(inputs.options.scale);
    clear_row(key_sums, width);
    clear_row(value_sums, width);
    for (int first = 0; first < range.length; first += key_threads) {
      const int count = gather_queries(masks, range.begin + first, range.begin + range.length, bit, seen);
      for (int base = 0; has_key && base < count; base += warp_lanes) {
        const int query = base + lane_of_thread() < count ? seen[base + lane_of_thread()] : -1;
        A weight = 0, slope = 0;
        if (query >= 0) {
          const std::int64_t place = head * in.q.tokens + query;
          weight = std::exp(scale * dot(row_of(in.q, query, head), row_of(in.k, key, head), width) -
                            inputs.result.lse[place]);
          slope =
              scale * weight *
              (dot(row_of(inputs.dout, query, head), row_of(in.v, key, head), width) - inputs.products[place]);
        }
        add_rows(key_sums, width, A(1), slope, query, [&](int i) { return row_of(in.q, i, head); });
        add_rows(value_sums, width, A(1), weight, query, [&](int i) { return row_of(inputs.dout, i, head); });
      }
    }
    if (!has_key) continue;
    store_row(key_sums, A(1), width, row_of(dk, key, head));
    store_row(value_sums, A(1), width, row_of(dv, key, head));
  }
}

template <class T>
__global__ void __launch_bounds__(key_threads) clear_rows(Heads<T> dk, Heads<T> dv) {
  const std::int64_t count = dk.tokens * dk.heads * dk.width;
  for (std::int64_t i = thread_index(); i < count; i += grid_threads()) {
    const std::int64_t token = i / dk.width / dk.heads;
    const int head = static_cast<int>(i / dk.width % dk.heads), column = static_cast<int>(i % dk.width);
    row_of(dk, token, head)[column] = from_accumulate<T>(0);
    row_of(dv, token, head)[column] = from_accumulate<T>(0);
  }
}

template <class A>
std::size_t sums_bytes(int rows, int width) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(width) * sizeof(A);
}

}  // namespace

template <class T>
void selected_attention_forward(Cuda& cuda, const Sequences& sequences, const AttentionInputs<T>& in,
                                const SelectedOptions& options, Heads<T> out, Accumulate<T>* lse) {
  const std::int64_t rows = in.q.tokens * in.q.heads;
  if (rows == 0) return;
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (fits_packed_selection(in.q, in.k, in.v, out))
      return selected_attention_forward_packed(cuda, sequences, in, options, out, lse);
  }
  attend<T>
      <<<grid_for(cuda, rows * warp_lanes, query_threads, 16), query_threads,
         sums_bytes<Accumulate<T>>(query_warps, in.q.width), cuda.stream>>>(sequences, in, options, out, lse);
  check_launch("selected_attention_forward");
}

template <class T>
void selected_attention_backward(Cuda& cuda, const Sequences& sequences, const AttentionInputs<T>& in,
                                 const SelectedOptions& options, const SoftmaxResult<T>& result,
                                 Heads<const T> dout, const AttentionGradients<T>& gradients) {
  using A = Accumulate<T>;
  const std::int64_t rows = in.q.tokens * in.q.heads;
  if (rows == 0) return;
  if constexpr (std::is_same_v<T, bfloat16>) {
    const auto& [dq, dk, dv] = gradients;
    if (fits_packed_selection(in.q, in.k, in.v, dout, result.out, dq, dk, dv))
      return selected_attention_backward_packed(cuda, sequences, in, options, result, dout, gradients);
  }
  const Scratch<A> products(cuda, rows);
  const BackwardInputs<T> inputs{in, options, result, dout, products.data()};
  differentiate_queries<T>
      <<<grid_for(cuda, rows * warp_lanes, query_threads, 16), query_threads,
         sums_bytes<A>(query_warps, in.q.width), cuda.stream>>>(sequences, inputs, gradients.dq);
  check_launch("selected_attention_backward");
  clear_rows<T><<<grid_for(cuda, rows * in.q.width, key_threads), key_threads, 0, cuda.stream>>>(gradients.dk,
                                                                                                 gradients.dv);
  check_launch("selected_attention_backward");
  const int parts = key_parts(sequences, options.size, in.q.heads, key_warps);
  const std::int64_t tasks = sequences.count * in.q.heads * options.size.segments * parts;
  if (tasks == 0) return;
  differentiate_keys<T>
      <<<grid_for(cuda, tasks, 1, 16), key_threads, sums_bytes<A>(2 * key_warps, in.q.width), cuda.stream>>>(
          sequences, inputs, parts, gradients.dk, gradients.dv);
  check_launch("selected_attention_backward");
}

#define INSTANTIATE(T)                                                                             \
  template void selected_attention_forward<T>(Cuda&, const Sequences&, const AttentionInputs<T>&,  \
                                              const SelectedOptions&, Heads<T>, Accumulate<T>*);   \
  template void selected_attention_backward<T>(Cuda&, const Sequences&, const AttentionInputs<T>&, \
                                               const SelectedOptions&, const SoftmaxResult<T>&,    \
                                               Heads<const T>, const AttentionGradients<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

}  // namespace tern::kernels
