// Attention to selected segments in bfloat16. A row lies in a group of 4 to 32 lanes of a warp, 8 columns in
// each, so that a warp reads whole rows of several keys at a time. Queries (forward, dq): a warp takes a query
// and head, its groups successive keys. Keys (dk, dv): a group takes a key of a segment and all queries that
// see it; where a segment has few keys, the warps of a block share the queries. Deterministic: sums have a
// fixed order. Cost: for each pair of query and key two rows of the second-level cache in each of the three
// kernels.
#include <cmath>

#include "kernels/cuda/selected_attention.cuh"
#include "kernels/cuda/selected_attention.h"

namespace tern::kernels {
namespace {

constexpr int columns = 8;                        ///< of a row in one lane
constexpr int rows_ahead = 4, queries_ahead = 2;  ///< rows that a group loads before it uses them
constexpr int list_length = 1024;                 ///< queries that a block looks through at a time

using RowPack = Pack<bfloat16, columns>;
using RowSums = float[columns];

/// A lane's place in its group and the group's in the warp.
template <int lanes>
struct Group {
  static constexpr int count = warp_lanes / lanes;
  const int index = lane_of_thread() / lanes, first = lane_of_thread() % lanes * columns;

  /// The lane's columns of a row, zeros beyond the width or where there is no row.
  __device__ __forceinline__ RowPack load(const Heads<const bfloat16>& x, int token, int head) const {
    return token >= 0 && first < x.width ? load_pack<columns>(row_of(x, token, head) + first) : RowPack{};
  }
  __device__ __forceinline__ void store(const RowSums& sums, float factor, const Heads<bfloat16>& x,
                                        std::int64_t token, int head) const {
    if (first >= x.width) return;
    RowPack pack;
#pragma unroll
    for (int c = 0; c < columns; ++c) pack.item[c] = from_accumulate<bfloat16>(factor * sums[c]);
    store_pack(row_of(x, token, head) + first, pack);
  }
  /// The same in all lanes of a group.
  static __device__ __forceinline__ float dot(const RowPack& a, const RowPack& b) {
    float sum = 0;
#pragma unroll
    for (int c = 0; c < columns; ++c) sum += to_accumulate(a.item[c]) * to_accumulate(b.item[c]);
    return warp_sum(sum, lanes);
  }
  /// Sum and maximum over the groups, in all of them.
  static __device__ __forceinline__ float sum_of_groups(float x) {
#pragma unroll
    for (int step = lanes; step < warp_lanes; step *= 2) x += __shfl_xor_sync(all_lanes, x, step);
    return x;
  }
  static __device__ __forceinline__ float max_of_groups(float x) {
#pragma unroll
    for (int step = lanes; step < warp_lanes; step *= 2) x = fmaxf(x, __shfl_xor_sync(all_lanes, x, step));
    return x;
  }
};

__device__ __forceinline__ void add_row(RowSums& sums, float factor, const RowPack& row) {
#pragma unroll
  for (int c = 0; c < columns; ++c) sums[c] += factor * to_accumulate(row.item[c]);
}

/// Deals the keys of a batch (for_seen_keys) to the groups: body(keys, rows of k, rows of v) with rows_ahead
/// keys, -1 for none.
template <int lanes, class Body>
__device__ __forceinline__ void for_dealt_keys(const AttentionInputs<bfloat16>& in, int head, int batch,
                                               const Group<lanes>& group, const Body& body) {
  constexpr int groups = Group<lanes>::count;
  const int seen = __popc(__ballot_sync(all_lanes, batch >= 0));
  for (int first = 0; first < seen; first += rows_ahead * groups) {
    int keys[rows_ahead];
#pragma unroll
    for (int s = 0; s < rows_ahead; ++s) {
      const int lane = first + s * groups + group.index;  // below 32 + 16, which wraps where there is no key
      const int key = __shfl_sync(all_lanes, batch, lane % warp_lanes);
      keys[s] = lane < seen ? key : -1;
    }
    RowPack key_rows[rows_ahead], values[rows_ahead];
#pragma unroll
    for (int s = 0; s < rows_ahead; ++s) {
      key_rows[s] = group.load(in.k, keys[s], head);
      values[s] = group.load(in.v, keys[s], head);
    }
    body(keys, key_rows, values);
  }
}

template <int lanes>
__global__ void __launch_bounds__(query_threads)
    attend_packed(Sequences sequences, AttentionInputs<bfloat16> in, SelectedOptions options,
                  Heads<bfloat16> out, float* lse) {
  const Group<lanes> group;
  const auto scale = static_cast<float>(options.scale);
  for_each_query(sequences, in.q, [&](const QueryRow& row) {
    const int head = row.head;
    const RowPack q = group.load(in.q, static_cast<int>(row.query), head);
    RowSums sums{};
    float top = -INFINITY, total = 0;  // total and sums: of the group's keys
    for_seen_keys(options, in.q.tokens, in.q.heads, row, [&](int batch) {
      for_dealt_keys(in, head, batch, group, [&](const auto& keys, const auto& key_rows, const auto& values) {
        float scores[rows_ahead], largest = top;
#pragma unroll
        for (int s = 0; s < rows_ahead; ++s) {
          const float product = group.dot(q, key_rows[s]);
          scores[s] = keys[s] >= 0 ? scale * product : -INFINITY;
          largest = fmaxf(largest, scores[s]);
        }
        largest = group.max_of_groups(largest);
        const float decay = std::exp(top - largest);
        top = largest;
        total *= decay;
#pragma unroll
        for (int c = 0; c < columns; ++c) sums[c] *= decay;
#pragma unroll
        for (int s = 0; s < rows_ahead; ++s) {
          const float weight = std::exp(scores[s] - top);
          total += weight;
          add_row(sums, weight, values[s]);
        }
      });
    });
    total = group.sum_of_groups(total);
#pragma unroll
    for (int c = 0; c < columns; ++c) sums[c] = group.sum_of_groups(sums[c]);
    if (group.index == 0) group.store(sums, total > 0 ? 1 / total : 0, out, row.query, head);
    if (lane_of_thread() == 0) lse[head * in.q.tokens + row.query] = top + std::log(total);
  });
}

/// dq, and the products of dout and out.
template <int lanes>
__global__ void __launch_bounds__(query_threads)
    differentiate_queries_packed(Sequences sequences, BackwardInputs<bfloat16> inputs, Heads<bfloat16> dq) {
  const Group<lanes> group;
  const AttentionInputs<bfloat16>& in = inputs.in;
  const auto scale = static_cast<float>(inputs.options.scale);
  for_each_query(sequences, in.q, [&](const QueryRow& row) {
    const int head = row.head, query = static_cast<int>(row.query);
    const RowPack q = group.load(in.q, query, head), dy = group.load(inputs.dout, query, head);
    const std::int64_t place = head * in.q.tokens + row.query;
    const float product = group.dot(dy, group.load(inputs.result.out, query, head)),
                lse = inputs.result.lse[place];
    if (lane_of_thread() == 0) inputs.products[place] = product;
    RowSums sums{};
    for_seen_keys(inputs.options, in.q.tokens, in.q.heads, row, [&](int batch) {
      for_dealt_keys(in, head, batch, group, [&](const auto& keys, const auto& key_rows, const auto& values) {
#pragma unroll
        for (int s = 0; s < rows_ahead; ++s) {
          const float weight = std::exp(scale * group.dot(q, key_rows[s]) - lse),
                      slope = scale * weight * (group.dot(dy, values[s]) - product);
          add_row(sums, keys[s] >= 0 ? slope : 0, key_rows[s]);
        }
      });
    });
#pragma unroll
    for (int c = 0; c < columns; ++c) sums[c] = group.sum_of_groups(sums[c]);
    if (group.index == 0) group.store(sums, 1, dq, row.query, head);
  });
}

/// Which of up to list_length queries see a segment: their places in `seen`, in order; the number in every
/// thread. A warp looks through neighbouring queries.
__device__ __forceinline__ int list_queries(const KeyTask& task, int first, int* seen) {
  constexpr int steps = list_length / key_threads;
  __shared__ int found[key_warps];
  const int lane = lane_of_thread(), warp = warp_of_block(), end = task.range.begin + task.range.length;
  unsigned sees[steps];
  int own = 0;
#pragma unroll
  for (int s = 0; s < steps; ++s) {
    const int query = first + (warp * steps + s) * warp_lanes + lane;
    const int mask = query < end ? task.masks[query] : 0;
    sees[s] = __ballot_sync(all_lanes, (mask >> task.bit & 1) != 0);
    own += __popc(sees[s]);
  }
  __syncthreads();  // nobody reads the last queries any more
  if (lane == 0) found[warp] = own;
  __syncthreads();
  int place = 0, total = 0;
#pragma unroll
  for (int w = 0; w < key_warps; ++w) {
    if (w < warp) place += found[w];
    total += found[w];
  }
#pragma unroll
  for (int s = 0; s < steps; ++s) {
    if ((sees[s] >> lane & 1) != 0)
      seen[place + __popc(sees[s] & ((1u << lane) - 1))] = first + (warp * steps + s) * warp_lanes + lane;
    place += __popc(sees[s]);
  }
  __syncthreads();
  return total;
}

/// The sums of a key and the rows that they are made with.
struct KeyRows {
  RowPack key, value;
  RowSums key_sums{}, value_sums{};
};

/// Adds what every `slices`-th of the listed queries from `slice` on contributes.
template <int lanes>
__device__ __forceinline__ void add_queries(const BackwardInputs<bfloat16>& inputs, const Group<lanes>& group,
                                            int head, const int* seen, int count, int slice, int slices,
                                            KeyRows& rows) {
  const AttentionInputs<bfloat16>& in = inputs.in;
  const auto scale = static_cast<float>(inputs.options.scale);
  for (int base = slice; base < count; base += queries_ahead * slices) {
    RowPack q[queries_ahead], dy[queries_ahead];
    float lse[queries_ahead], product[queries_ahead];
#pragma unroll
    for (int s = 0; s < queries_ahead; ++s) {
      const int index = base + s * slices, query = index < count ? seen[index] : -1;
      q[s] = group.load(in.q, query, head);
      dy[s] = group.load(inputs.dout, query, head);
      const std::int64_t place = head * in.q.tokens + query;
      lse[s] = query >= 0 ? inputs.result.lse[place] : INFINITY;  // a weight of 0
      product[s] = query >= 0 ? inputs.products[place] : 0;
    }
#pragma unroll
    for (int s = 0; s < queries_ahead; ++s) {
      const float weight = std::exp(scale * group.dot(q[s], rows.key) - lse[s]),
                  slope = scale * weight * (group.dot(dy[s], rows.value) - product[s]);
      add_row(rows.key_sums, slope, q[s]);
      add_row(rows.value_sums, weight, dy[s]);
    }
  }
}

/// Adds the sums of successive warps, `slices` of them, to the first one's; `memory` holds sums of all threads.
__device__ __forceinline__ void add_slices(KeyRows& rows, int slices, float (*memory)[key_threads]) {
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int c = 0; c < columns; ++c) {
    memory[c][thread] = rows.key_sums[c];
    memory[columns + c][thread] = rows.value_sums[c];
  }
  __syncthreads();
  if (warp_of_block() % slices == 0)
    for (int other = 1; other < slices; ++other) {
#pragma unroll
      for (int c = 0; c < columns; ++c) {
        rows.key_sums[c] += memory[c][thread + other * warp_lanes];
        rows.value_sums[c] += memory[columns + c][thread + other * warp_lanes];
      }
    }
  __syncthreads();
}

/// A block takes up to eight warps' keys of a segment. Rows of dk and dv that no block owns are zero already.
template <int lanes>
__global__ void __launch_bounds__(key_threads, 2)
    differentiate_keys_packed(Sequences sequences, BackwardInputs<bfloat16> inputs, int parts,
                              Heads<bfloat16> dk, Heads<bfloat16> dv) {
  __shared__ int seen[list_length];
  __shared__ float memory[2 * columns][key_threads];
  constexpr int warp_keys = Group<lanes>::count, block_keys = key_warps * warp_keys;
  const Group<lanes> group;
  const AttentionInputs<bfloat16>& in = inputs.in;
  const std::int64_t tasks = sequences.count * in.q.heads * inputs.options.size.segments * parts;
  for (std::int64_t index = blockIdx.x; index < tasks; index += gridDim.x) {
    const KeyTask task = key_task(sequences, inputs.options, in.q.tokens, in.q.heads, parts, index);
    const int first_key = task.part * block_keys, left = task.keys.taken - first_key;
    if (left <= 0) continue;
    const int used_warps = left < block_keys ? (left + warp_keys - 1) / warp_keys : key_warps;
    int slices = 1;  // warps that share the same keys
    while (2 * slices * used_warps <= key_warps) slices *= 2;
    const int slice = warp_of_block() % slices,
              key_index = first_key + warp_of_block() / slices * warp_keys + group.index;
    const bool has_key = key_index < task.keys.taken, is_idle = warp_of_block() / slices >= used_warps;
    const int key = has_key ? task.range.begin + task.keys.key(key_index) : -1;
    KeyRows rows{group.load(in.k, key, task.head), group.load(in.v, key, task.head)};
    for (int first = 0; first < task.range.length; first += list_length) {
      const int count = list_queries(task, task.range.begin + first, seen);
      if (!is_idle) add_queries(inputs, group, task.head, seen, count, slice, slices, rows);
    }
    if (slices > 1) add_slices(rows, slices, memory);
    if (!has_key || slice != 0) continue;
    group.store(rows.key_sums, 1, dk, key, task.head);
    group.store(rows.value_sums, 1, dv, key, task.head);
  }
}

__global__ void __launch_bounds__(key_threads) clear_packed(Heads<bfloat16> dk, Heads<bfloat16> dv) {
  const int row_packs = dk.width / columns;
  const std::int64_t packs = dk.tokens * dk.heads * row_packs;
  for (std::int64_t i = thread_index(); i < packs; i += grid_threads()) {
    const std::int64_t row = i / row_packs, token = row / dk.heads;
    const int head = static_cast<int>(row % dk.heads), column = static_cast<int>(i % row_packs) * columns;
    store_pack(row_of(dk, token, head) + column, RowPack{});
    store_pack(row_of(dv, token, head) + column, RowPack{});
  }
}

/// Calls body with the lanes of a row: enough for `width` columns.
template <class Body>
void with_lanes(int width, const Body& body) {
  if (width <= 4 * columns) return body(std::integral_constant<int, 4>{});
  if (width <= 8 * columns) return body(std::integral_constant<int, 8>{});
  if (width <= 16 * columns) return body(std::integral_constant<int, 16>{});
  return body(std::integral_constant<int, 32>{});
}

unsigned query_blocks(const Cuda& cuda, const Heads<const bfloat16>& q) {
  return grid_for(cuda, q.tokens * q.heads * warp_lanes, query_threads, 16);
}

}  // namespace

void selected_attention_forward_packed(Cuda& cuda, const Sequences& sequences,
                                       const AttentionInputs<bfloat16>& in, const SelectedOptions& options,
                                       Heads<bfloat16> out, float* lse) {
  with_lanes(in.q.width, [&]<int lanes>(std::integral_constant<int, lanes>) {
    attend_packed<lanes>
        <<<query_blocks(cuda, in.q), query_threads, 0, cuda.stream>>>(sequences, in, options, out, lse);
  });
  check_launch("selected_attention_forward");
}

void selected_attention_backward_packed(Cuda& cuda, const Sequences& sequences,
                                        const AttentionInputs<bfloat16>& in, const SelectedOptions& options,
                                        const SoftmaxResult<bfloat16>& result, Heads<const bfloat16> dout,
                                        const AttentionGradients<bfloat16>& gradients) {
  const auto& [dq, dk, dv] = gradients;
  const Scratch<float> products(cuda, in.q.tokens * in.q.heads);
  const BackwardInputs<bfloat16> inputs{in, options, result, dout, products.data()};
  clear_packed<<<grid_for(cuda, dk.tokens * dk.heads * dk.width / columns, key_threads), key_threads, 0,
                 cuda.stream>>>(dk, dv);
  check_launch("selected_attention_backward");
  with_lanes(in.q.width, [&]<int lanes>(std::integral_constant<int, lanes>) {
    differentiate_queries_packed<lanes>
        <<<query_blocks(cuda, in.q), query_threads, 0, cuda.stream>>>(sequences, inputs, dq);
    check_launch("selected_attention_backward");
    const int parts = key_parts(sequences, options.size, in.q.heads, key_warps * Group<lanes>::count);
    const std::int64_t tasks = sequences.count * in.q.heads * options.size.segments * parts;
    if (tasks == 0) return;
    differentiate_keys_packed<lanes>
        <<<grid_for(cuda, tasks, 1, 16), key_threads, 0, cuda.stream>>>(sequences, inputs, parts, dk, dv);
  });
  check_launch("selected_attention_backward");
}

}  // namespace tern::kernels
