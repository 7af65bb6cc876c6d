// Attention over an AttentionPattern in float32 and float64, forward and backward, without tensor cores.
// Deterministic: one pass of blocks owns queries (dq), another owns keys (dk, dv), and both compute the weights
// again. Heads wider than 64 (float64: 32) are summed by one block for each 64 columns.
//
// Cost for each pair of tokens in visible tiles and head: 2 (forward) + 7 (backward) x width multiply-adds and
// an exponential in each of the three passes.
#include "kernels/cuda/sparse_attention_simt.cuh"

namespace tern::kernels {
namespace {

template <class T>
struct SparseForward {
  Sequences sequences;
  AttentionInputs<T> in;
  SparseOptions options;
  Heads<T> y;
  T* log_sums;
  SimtShape shape;
};

template <class Tiles>
__global__ void __launch_bounds__(Tiles::threads, Tiles::blocks)
    attend_sparse(const __grid_constant__ SparseForward<typename Tiles::Value> arguments) {
  using T = typename Tiles::Value;
  extern __shared__ __align__(16) std::byte shared[];
  const SimtForwardMemory<Tiles> memory(shared);
  const auto& [sequences, in, options, y, log_sums, shape] = arguments;
  const SimtBlock block(sequences, TileCut{options.pattern.block}, in.q.heads, shape.chunks);
  const SequencePart& place = block.part;
  const int head = block.head, column = block.chunk * Tiles::columns;
  if (place.sequence < 0) {
    if (block.chunk > 0) return;
    clear_spare(sequences, place, head, y);
    clear_spare_sums(sequences, place, head, y.heads, log_sums);
    return;
  }
  const typename Tiles::Lane lane;
  const TiledPattern pattern(options.pattern, RowSide::queries, place.length, head);
  const std::int64_t first = place.begin + pattern.first(place.tile);
  const int row_count = pattern.tokens(place.tile);
  typename Tiles::Sums sums{};
  RowStatistics<Tiles> statistics;
  bool is_staged = false;
  const std::int32_t* const position = sequences.position + place.begin;
  walk<Tiles>(lane, pattern, place, position, [&](const SparseTile& part, bool is_used) {
    const std::int64_t key = place.begin + part.column;
    typename Tiles::Scores scores{};
    for (int chunk = 0; chunk < shape.chunks; ++chunk) {
      const int from = chunk * Tiles::columns;
      __syncthreads();
      if (shape.chunks > 1 || !is_staged)
        stage_rows<Tiles, Tiles::rows, Tiles::stride>(memory.q, in.q, first, head, row_count, from,
                                                      shape.packed);
      is_staged = true;
      stage_rows<Tiles, Tiles::keys, Tiles::stride>(memory.k, in.k, key, head, part.column_count, from,
                                                    shape.packed);
      if (chunk == 0)
        stage_rows<Tiles, Tiles::keys, Tiles::stride>(memory.v, in.v, key, head, part.column_count, column,
                                                      shape.packed);
      __pipeline_commit();
      __pipeline_wait_prior(0);
      __syncthreads();
      if (is_used) add_products<Tiles>(lane, memory.q, memory.k, scores);
    }
    if (!is_used) return;
    hide<Tiles>(lane, pattern, options, part, scores);
    statistics.weigh(scores, sums);
    add_weighted<Tiles, Tiles::stride>(lane, scores, memory.weights, memory.v, sums);
  });
  statistics.finish();
  write_sums<Tiles>(lane, sums, y, first, head, row_count, column, shape.packed,
                    [&](int r) { return statistics.factor(r); });
  if (block.chunk > 0 || threadIdx.x % Tiles::row_lanes != 0) return;
#pragma unroll
  for (int r = 0; r < Tiles::thread_rows; ++r)
    if (lane.row(r) < row_count)
      log_sums[(first + lane.row(r)) * y.heads + head] =
          (statistics.top[r] + log2(statistics.total[r])) * static_cast<T>(ln_2);
}

/// dk and dv of a block's keys against the queries that see them (`keys_resident`), or dq of its queries.
template <class Tiles, bool keys_resident>
__global__ void __launch_bounds__(Tiles::threads, Tiles::blocks)
    differentiate_sparse(const __grid_constant__ SparseBackward<typename Tiles::Value> arguments) {
  using T = typename Tiles::Value;
  extern __shared__ __align__(16) std::byte shared[];
  const SimtBackwardMemory<Tiles> memory(shared);
  const auto& [sequences, in, options, dy, log_sums, dots, out, shape] = arguments;
  const Heads<const T>& rows = keys_resident ? in.k : in.q;
  const Heads<const T>& row_slopes = keys_resident ? in.v : dy;
  const Heads<const T>& columns = keys_resident ? in.q : in.k;
  const Heads<const T>& column_slopes = keys_resident ? dy : in.v;
  const SimtBlock block(sequences, TileCut{options.pattern.block}, in.q.heads, shape.chunks);
  const SequencePart& place = block.part;
  const int head = block.head, column = block.chunk * Tiles::columns;
  if (place.sequence < 0) {
    if (block.chunk > 0) return;
    clear_spare(sequences, place, head, keys_resident ? out.dk : out.dq);
    if (keys_resident) clear_spare(sequences, place, head, out.dv);
    return;
  }
  const typename Tiles::Lane lane;
  const TiledPattern pattern(options.pattern, keys_resident ? RowSide::keys : RowSide::queries, place.length,
                             head);
  const std::int64_t first = place.begin + pattern.first(place.tile);
  const int row_count = pattern.tokens(place.tile);
  typename Tiles::Sums sums{}, value_sums{};
  bool is_staged = false;
  const std::int32_t* const position = sequences.position + place.begin;
  walk<Tiles>(lane, pattern, place, position, [&](const SparseTile& part, bool is_used) {
    const std::int64_t token = place.begin + part.column;
    typename Tiles::Scores scores{}, slopes{};
    for (int i = 0; i < shape.chunks; ++i) {  // the block's own columns come last and stay
      const int from = (block.chunk + 1 + i) % shape.chunks * Tiles::columns;
      __syncthreads();
      if (shape.chunks > 1 || !is_staged) {
        stage_rows<Tiles, Tiles::rows, Tiles::stride>(memory.own, rows, first, head, row_count, from,
                                                      shape.packed);
        stage_rows<Tiles, Tiles::rows, Tiles::stride>(memory.own_slopes, row_slopes, first, head, row_count,
                                                      from, shape.packed);
      }
      is_staged = true;
      stage_rows<Tiles, Tiles::keys, Tiles::stride>(memory.other, columns, token, head, part.column_count, from,
                                                    shape.packed);
      stage_rows<Tiles, Tiles::keys, Tiles::stride>(memory.other_slopes, column_slopes, token, head,
                                                    part.column_count, from, shape.packed);
      __pipeline_commit();
      __pipeline_wait_prior(0);
      __syncthreads();
      if (!is_used) continue;
      add_products<Tiles>(lane, memory.own, memory.other, scores);
      add_products<Tiles>(lane, memory.own_slopes, memory.other_slopes, slopes);
    }
    if (!is_used) return;
    hide<Tiles>(lane, pattern, options, part, scores);
    differentiate<Tiles, keys_resident>(lane, arguments, place.begin, head, part, scores, slopes);
    if constexpr (keys_resident)
      add_weighted<Tiles, Tiles::stride>(lane, scores, memory.weights, memory.other_slopes, value_sums);
    add_weighted<Tiles, Tiles::stride>(lane, slopes, memory.weights, memory.other, sums);
  });
  write_sums<Tiles>(lane, sums, keys_resident ? out.dk : out.dq, first, head, row_count, column, shape.packed,
                    [&](int) { return static_cast<T>(options.scale); });
  if constexpr (keys_resident)
    write_sums<Tiles>(lane, value_sums, out.dv, first, head, row_count, column, shape.packed,
                      [](int) { return T{1}; });
}

template <class Kernel, class Arguments>
void launch(Cuda& cuda, Kernel kernel, const Arguments& arguments, unsigned blocks, int threads,
            std::size_t bytes, const char* name) {
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             name);
  kernel<<<blocks, static_cast<unsigned>(threads), bytes, cuda.stream>>>(arguments);
  check_launch(name);
}

template <class Tiles>
unsigned blocks_of(const Sequences& sequences, const SparseOptions& options, int heads, SimtShape shape) {
  static_assert(Tiles::rows == tile_tokens && tile_tokens % Tiles::keys == 0);
  return sparse_blocks(sequences, {options.pattern.block}, heads, shape.chunks);
}

/// Calls run(tile sizes) with those that suit the head's width.
template <class T, class Run>
void with_tiles(int width, Run run) {
  if constexpr (std::is_same_v<T, double>)
    run(SimtTiles<double, 32, 1, 1>{});
  else if (width <= 32)
    run(SimtTiles<float, 32, 1, 2>{});
  else
    run(SimtTiles<float, 64, 1, 2>{});
}

}  // namespace

template <class T>
void sparse_attention_forward(Cuda& cuda, const Sequences& sequences, const AttentionInputs<T>& in,
                              const SparseOptions& options, Heads<T> y, Accumulate<T>* log_sums) {
  if (sequences.tokens == 0 || y.heads == 0) return;
  with_tiles<T>(y.width, [&]<class Tiles>(Tiles) {
    const SimtShape shape = shape_of<Tiles>(y.width, in.q, in.k, in.v, y);
    launch(cuda, attend_sparse<Tiles>, SparseForward<T>{sequences, in, options, y, log_sums, shape},
           blocks_of<Tiles>(sequences, options, y.heads, shape), Tiles::threads,
           SimtForwardMemory<Tiles>::bytes, "sparse_attention forward");
  });
}

template <class T>
void sparse_attention_backward(Cuda& cuda, const Sequences& sequences, const AttentionInputs<T>& in,
                               const SparseOptions& options, const SparseResult<T>& result,
                               const SparseSlopes<T>& slopes, const AttentionGradients<T>& out) {
  if (sequences.tokens == 0 || in.q.heads == 0) return;
  const Scratch<T> dots(cuda, in.q.heads * in.q.tokens);
  launch_sparse_dots<T>(cuda, result, slopes, dots.data());
  with_tiles<T>(in.q.width, [&]<class Tiles>(Tiles) {
    const SimtShape shape = shape_of<Tiles>(in.q.width, in.q, in.k, in.v, slopes.dy, out.dq, out.dk, out.dv);
    constexpr std::size_t bytes = SimtBackwardMemory<Tiles>::bytes;
    const SparseBackward<T> arguments{sequences,       in,          options, slopes.dy,
                                      result.log_sums, dots.data(), out,     shape};
    const unsigned blocks = blocks_of<Tiles>(sequences, options, in.q.heads, shape);
    launch(cuda, differentiate_sparse<Tiles, false>, arguments, blocks, Tiles::threads, bytes,
           "sparse_attention backward of queries");
    launch(cuda, differentiate_sparse<Tiles, true>, arguments, blocks, Tiles::threads, bytes,
           "sparse_attention backward of keys");
  });
}

#define INSTANTIATE(T)                                                                           \
  template void sparse_attention_forward<T>(Cuda&, const Sequences&, const AttentionInputs<T>&,  \
                                            const SparseOptions&, Heads<T>, Accumulate<T>*);     \
  template void sparse_attention_backward<T>(Cuda&, const Sequences&, const AttentionInputs<T>&, \
                                             const SparseOptions&, const SparseResult<T>&,       \
                                             const SparseSlopes<T>&, const AttentionGradients<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
