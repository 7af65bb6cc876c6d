// The kernels of attention in float32 and float64; attention_simt.cu says what they cost.
#pragma once

#include "kernels/cuda/attention_simt_scores.cuh"
#include "kernels/cuda/attention_tf32.cuh"

namespace tern::kernels {
namespace {

/// Where the first tile of scores lies that a block computes.
__device__ inline TilePlace first_place(const Sequences& sequences, const SimtBlock& block) {
  const SequencePart& part = block.part;
  return {.row = part.first,
          .key = 0,
          .key_count = part.length,
          .head = block.head,
          .token = part.begin,
          .sample = static_cast<std::uint32_t>(sequences.sample[part.sequence])};
}

template <int rows, int stride>
struct StagedRows {};

template <class Score, class Tiles>
__global__ void __launch_bounds__(Tiles::threads, Tiles::blocks)
    attend_simt(Sequences sequences, AttentionInputs<typename Tiles::Value> in, Score score,
                Heads<typename Tiles::Value> out, SimtShape shape) {
  using T = typename Tiles::Value;
  extern __shared__ __align__(16) std::byte shared[];
  const SimtForwardMemory<Tiles> memory(shared);
  const SimtBlock block(sequences, RowCut{Tiles::rows}, in.q.heads, shape.chunks);
  const SequencePart& part = block.part;
  const int head = block.head, column = block.chunk * Tiles::columns;
  if (part.sequence < 0) {
    const std::int64_t token = spare_token(sequences, part, Tiles::rows);
    if (block.chunk == 0) clear_rows(out, token, head, Tiles::rows);
    if constexpr (Score::has_statistics)
      if (block.chunk == 0) score.clear_statistics(token, head, Tiles::rows);
    return;
  }
  const typename Tiles::Lane lane;
  const int row_count = part.length - part.first;
  TilePlace place = first_place(sequences, block);
  typename Tiles::Sums sums{};
  typename Score::template Statistics<Tiles> statistics;
  score.template begin<Tiles>(statistics);
  const auto stage = [&]<int rows, int stride>(StagedRows<rows, stride>, T* to, const Heads<const T>& from,
                                               int first, int columns_from) {
    stage_rows<Tiles, rows, stride>(to, from, part.begin + first, head, part.length - first, columns_from,
                                    shape.packed);
  };
  constexpr StagedRows<Tiles::rows, Tiles::stride> query_rows;
  constexpr StagedRows<Tiles::keys, Tiles::stride> key_rows;
  constexpr StagedRows<Tiles::keys, Tiles::value_stride> value_rows;
  stage(query_rows, memory.q, in.q, part.first, 0);
  stage(key_rows, memory.k, in.k, 0, 0);
  __pipeline_commit();
  for (; place.key < part.length; place.key += Tiles::keys, place.key_count -= Tiles::keys) {
    typename Tiles::Scores scores{};
    for (int chunk = 0; chunk < shape.chunks; ++chunk) {
      if (shape.chunks > 1 && (chunk > 0 || place.key > 0)) {
        stage(query_rows, memory.q, in.q, part.first, chunk * Tiles::columns);
        stage(key_rows, memory.k, in.k, place.key, chunk * Tiles::columns);
        __pipeline_commit();
      }
      __pipeline_wait_prior(0);
      __syncthreads();
      if (chunk == 0) {
        stage(value_rows, memory.v, in.v, place.key, column);
        __pipeline_commit();
      }
      add_products<Tiles>(lane, memory.q, memory.k, scores);
      __syncthreads();
    }
    if (shape.chunks == 1) {
      if (place.key + Tiles::keys < part.length) stage(key_rows, memory.k, in.k, place.key + Tiles::keys, 0);
      __pipeline_commit();
    }
    score.template weigh<Tiles>(statistics, lane, place, scores, sums);
    __pipeline_wait_prior(shape.chunks == 1 ? 1 : 0);
    __syncthreads();
    add_weighted<Tiles, Tiles::value_stride>(lane, scores, memory.weights, memory.v, sums);
  }
  score.template finish<Tiles>(statistics);
  write_sums<Tiles>(lane, sums, out, part.begin + part.first, head, row_count, column, shape.packed,
                    [&](int r) { return score.template factor<Tiles>(statistics, r); });
  if constexpr (Score::has_statistics)
    if (block.chunk == 0) score.template write_statistics<Tiles>(statistics, lane, place, row_count);
}

template <class T>
struct SimtBackward {
  AttentionInputs<T> in;
  Heads<const T> dout;
  AttentionGradients<T> out;
};

/// dk and dv of a block's keys against all queries (`keys_resident`), or dq of its queries against all keys.
template <class Score, class Tiles, bool keys_resident>
__global__ void __launch_bounds__(Tiles::threads, Tiles::blocks)
    differentiate_simt(Sequences sequences, SimtBackward<typename Tiles::Value> arguments, Score score,
                       SimtShape shape) {
  using T = typename Tiles::Value;
  extern __shared__ __align__(16) std::byte shared[];
  const SimtBackwardMemory<Tiles> memory(shared);
  const auto& [in, dout, out] = arguments;
  const Heads<const T>& rows = keys_resident ? in.k : in.q;
  const Heads<const T>& row_slopes = keys_resident ? in.v : dout;
  const Heads<const T>& keys = keys_resident ? in.q : in.k;
  const Heads<const T>& key_slopes = keys_resident ? dout : in.v;

  const SimtBlock block(sequences, RowCut{Tiles::rows}, in.q.heads, shape.chunks);
  const SequencePart& part = block.part;
  const int head = block.head, column = block.chunk * Tiles::columns;
  if (part.sequence < 0) {
    const std::int64_t token = spare_token(sequences, part, Tiles::rows);
    if (block.chunk > 0) return;
    clear_rows(keys_resident ? out.dk : out.dq, token, head, Tiles::rows);
    if (keys_resident) clear_rows(out.dv, token, head, Tiles::rows);
    return;
  }
  const typename Tiles::Lane lane;
  const int row_count = part.length - part.first;
  TilePlace place = first_place(sequences, block);
  typename Tiles::Sums sums{}, value_sums{};
  const auto stage = [&]<int count, int stride>(StagedRows<count, stride>, T* to, const Heads<const T>& from,
                                                int first, int columns_from) {
    stage_rows<Tiles, count, stride>(to, from, part.begin + first, head, part.length - first, columns_from,
                                     shape.packed);
  };
  constexpr StagedRows<Tiles::rows, Tiles::stride> resident_rows;
  constexpr StagedRows<Tiles::keys, Tiles::stride> streamed_rows;
  for (; place.key < part.length; place.key += Tiles::keys, place.key_count -= Tiles::keys) {
    typename Tiles::Scores scores{}, slopes{};
    for (int i = 0; i < shape.chunks; ++i) {  // the block's own columns come last and stay
      const int from = (block.chunk + 1 + i) % shape.chunks * Tiles::columns;
      __syncthreads();
      if (shape.chunks > 1 || place.key == 0) {
        stage(resident_rows, memory.own, rows, part.first, from);
        stage(resident_rows, memory.own_slopes, row_slopes, part.first, from);
      }
      stage(streamed_rows, memory.other, keys, place.key, from);
      __pipeline_commit();
      stage(streamed_rows, memory.other_slopes, key_slopes, place.key, from);
      __pipeline_commit();
      __pipeline_wait_prior(1);
      __syncthreads();
      add_products<Tiles>(lane, memory.own, memory.other, scores);
      __pipeline_wait_prior(0);
      __syncthreads();
      add_products<Tiles>(lane, memory.own_slopes, memory.other_slopes, slopes);
    }
    score.template differentiate<Tiles, keys_resident>(lane, place, row_count, scores, slopes);
    if constexpr (keys_resident)
      add_weighted<Tiles, Tiles::stride>(lane, scores, memory.weights, memory.other_slopes, value_sums);
    add_weighted<Tiles, Tiles::stride>(lane, slopes, memory.weights, memory.other, sums);
  }
  write_sums<Tiles>(lane, sums, keys_resident ? out.dk : out.dq, part.begin + part.first, head, row_count,
                    column, shape.packed, [&](int) { return score.gradient_factor(); });
  if constexpr (keys_resident)
    write_sums<Tiles>(lane, value_sums, out.dv, part.begin + part.first, head, row_count, column, shape.packed,
                      [](int) { return T{1}; });
}

}  // namespace
}  // namespace tern::kernels
