// Scores of attention along a sort, from the products of a chunk of a tile, without branches at a pair: what
// decides about a column is read once for both rows of a lane, and the kinds of rounds part once for a chunk.
#pragma once

#include "kernels/cuda/attention_products.cuh"
#include "kernels/cuda/sorted_attention.cuh"

namespace tern::kernels {
namespace {

__device__ __forceinline__ float binary_logarithm(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Two neighbours of shared memory.
template <class A>
__device__ __forceinline__ Pack<A, 2> neighbours(const A* first) {
  static_assert(sizeof(A) == 4);
  const float2 pair = *reinterpret_cast<const float2*>(first);
  return {__builtin_bit_cast(A, pair.x), __builtin_bit_cast(A, pair.y)};
}

/// Visits a lane's products of two neighbouring columns, rows g and g + 8: visit(block, which half of the
/// block, left column). Columns count from `first`, that of the chunk.
template <class Shape, class Visit>
__device__ __forceinline__ void for_each_columns(int first, const Visit& visit) {
  static_assert(Shape::row_tiles == 1);
  const int column = first + 2 * (static_cast<int>(threadIdx.x) % 4);
#pragma unroll
  for (int i = 0; i < 2 * Shape::blocks16; ++i) visit(i / 2, i % 2, column + 8 * i);
}

/// A tile's rows are keys that meet queries, or queries that meet keys. What the rows behind the tile's last
/// one get does not matter; columns behind the last one score -infinity.
template <class Shape, bool keys_resident>
class SortedScores {
 public:
  using Products = typename Shape::Products;

  __device__ __forceinline__ SortedScores(const SortedRound<bfloat16>& round, const TileTokens& resident,
                                          const TileTokens& streamed)
      : round_(round),
        resident_(resident),
        streamed_(streamed),
        sample_summand_(round.is_sampled() ? log2f(round.sample_factor<float>()) : 0.0f) {}

  /// Products -> logits in base 2 plus the logarithms of their factors; -infinity: the query does not see the
  /// key.
  __device__ __forceinline__ void score(Products& s, int first) const {
    if (round_.is_sampled())
      score_samples(s, first);
    else if (round_.counts_rounds())
      score_counted(s, first);
    else
      score_sorted(s, first);
    if (round_.excludes_self()) penalize_self(s, first);
  }

 private:
  /// The segments of a lane's rows. Where the first block meets the last one, every segment but the one that
  /// counts becomes one that no column has.
  struct RowSegments {
    int of[2];
    unsigned span;  ///< by how much a query's segment may lie above a key's
  };
  __device__ __forceinline__ RowSegments row_segments(int sort) const {
    RowSegments rows{{0, 0}, 1};
#pragma unroll
    for (int half = 0; half < 2; ++half)
      rows.of[half] = resident_.segment[sort * resident_.size + block_row<Shape>(0, half)];
    return rows;
  }
  __device__ __forceinline__ RowSegments own_segments() const {
    RowSegments rows = row_segments(keys_resident ? round_.key_round() : round_.query_round());
    if (!round_.is_wrap()) return rows;
    rows.span = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if constexpr (keys_resident)
        rows.of[half] = rows.of[half] == round_.wrapped() ? 0 : no_key;
      else
        rows.of[half] = rows.of[half] == 0 ? round_.wrapped() : no_query;
    }
    return rows;
  }
  /// sees() of kernels/sorted_attention.h. Segments are no less than 0 and far below no_key.
  static __device__ __forceinline__ bool sees_within(const RowSegments& rows, int half, int column) {
    const int difference = keys_resident ? column - rows.of[half] : rows.of[half] - column;
    return static_cast<unsigned>(difference) <= rows.span;
  }
  __device__ __forceinline__ const int* columns(int sort) const {
    return streamed_.segment + sort * streamed_.size;
  }
  __device__ __forceinline__ const int* own_columns() const {
    return columns(keys_resident ? round_.query_round() : round_.key_round());
  }

  /// visit(product, which half of the rows, column, the column's number) for a lane's products; `numbers` of
  /// the streamed tokens.
  template <class Visit>
  static __device__ __forceinline__ void for_each_product(Products& s, int first, const int* numbers,
                                                          const Visit& visit) {
    for_each_columns<Shape>(first, [&](int u, int j, int column) {
      const Pack<int, 2> pair = neighbours(numbers + column);
#pragma unroll
      for (int i = 0; i < 4; ++i) visit(s[u][j][i], i / 2, column + i % 2, pair.item[i % 2]);
    });
  }

  __device__ __forceinline__ void score_sorted(Products& s, int first) const {
    const RowSegments rows = own_segments();
    const float scale = round_.scale();
    for_each_product(s, first, own_columns(), [&](float& x, int half, int, int segment) {
      x = sees_within(rows, half, segment) ? scale * x : -INFINITY;
    });
  }

  /// In how many rounds a query sees a key starts at infinity where it does not in this one.
  __device__ __forceinline__ void score_counted(Products& s, int first) const {
    Products times;
    const int own = round_.query_round();
    const RowSegments own_rows = row_segments(own);
    for_each_product(times, first, columns(own), [&](float& x, int half, int, int segment) {
      x = sees_within(own_rows, half, segment) ? 1.0f : INFINITY;
    });
#pragma unroll 1
    for (int r = 0; r < round_.rounds(); ++r) {
      if (r == own) continue;
      const RowSegments rows = row_segments(r);
      for_each_product(times, first, columns(r), [&](float& x, int half, int, int segment) {
        if (sees_within(rows, half, segment)) x += 1.0f;
      });
    }
    const float scale = round_.scale();
#pragma unroll
    for (int i = 0; i < 8 * Shape::blocks16; ++i) {
      float& x = s[i / 8][i / 4 % 2][i % 4];
      x = scale * x - binary_logarithm(times[i / 8][i / 4 % 2][i % 4]);
    }
  }

  __device__ __forceinline__ void score_samples(Products& s, int first) const {
    const RowSegments rows = own_segments();
    const float scale = round_.scale();
    for_each_product(s, first, own_columns(), [&](float& x, int half, int column, int segment) {
      const bool is_seen = !sees_within(rows, half, segment) & (column < streamed_.count);
      x = is_seen ? scale * x + sample_summand_ : -INFINITY;
    });
  }

  __device__ __forceinline__ void penalize_self(Products& s, int first) const {
    int token[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) token[half] = resident_.token[block_row<Shape>(0, half)];
    for_each_product(s, first, streamed_.token, [&](float& x, int half, int, int other) {
      if (token[half] == other) x -= static_cast<float>(self_penalty * log2_e);
    });
  }

  const SortedRound<bfloat16>& round_;
  const TileTokens &resident_, &streamed_;
  float sample_summand_;
};

}  // namespace
}  // namespace tern::kernels
