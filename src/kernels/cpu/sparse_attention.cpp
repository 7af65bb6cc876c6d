// Exact softmax attention over an AttentionPattern. A task owns eight tiles of rows and walks over the tiles of
// the other side that any of them is paired with, so that one packed tile serves several. Scores are kept in
// base 2 as in softmax_attention.cpp. Backward is two passes, of queries for dq and of keys for dk and dv: sums
// have one owner and a fixed order.
#include "kernels/sparse_attention.h"

#include <algorithm>
#include <cstring>

#include "base/parallel.h"
#include "kernels/cpu/sparse_tiles.h"
#include "kernels/cpu/unused_rows.h"

namespace tern::kernels {
namespace {

template <class T, Isa isa>
struct ForwardArrays {
  ForwardArrays(Layout& layout, int width)
      : q(layout.take<T>(task_rows * padded_width<T, isa>(width))),
        sums(layout.take<T>(task_rows * padded_width<T, isa>(width))),
        k(layout.take<T>(tile_tokens * width)),
        v(layout.take<T>(tile_tokens * padded_width<T, isa>(width))),
        scores(layout.take<T>(tile_tokens * tile_tokens)),
        top(layout.take<T>(task_rows)),
        totals(layout.take<T>(task_rows * Simd<T, isa>::lanes)) {}
  T *q, *sums, *k, *v, *scores, *top, *totals;
};

template <class T, Isa isa>
void forward_task(const TilePlace& place, const AttentionInputs<T>& in, const SparseScore<T, isa>& score,
                  const Heads<T>& y, T* log_sums) {
  constexpr int lanes = Simd<T, isa>::lanes;
  const int width = in.q.width, stride = padded_width<T, isa>(width), tile_size = tile_tokens * stride;
  auto scratch = thread_scratch<ForwardArrays<T, isa>>(width);
  for (int i = 0; i < place.count; ++i)
    pack<T, isa>(place.rows(in.q, place.first + i), score.query_factor(), scratch.q + i * tile_size);
  const int rows = place.count * tile_tokens;
  std::fill(scratch.top, scratch.top + rows, -std::numeric_limits<T>::infinity());
  std::memset(scratch.totals, 0, sizeof(T) * static_cast<std::size_t>(rows * lanes));
  std::memset(scratch.sums, 0, sizeof(T) * static_cast<std::size_t>(rows * stride));
  walk(
      place,
      [&](int column) {
        pack_transposed(place.rows(in.k, column), scratch.k, tile_tokens);
        pack<T, isa>(place.rows(in.v, column), T{1}, scratch.v);
      },
      [&](int row, int column, const TilePair& pair) {
        T* const sums = scratch.sums + row * tile_size;
        multiply<T, isa, false>({pair.rows, width, pair.columns}, {scratch.q + row * tile_size, stride, 1},
                                {scratch.k, tile_tokens}, {scratch.scores, tile_tokens});
        score.weigh(
            place,
            {scratch.scores, nullptr, pair.rows, pair.columns, pair.is_partial,
             place.pattern.first(place.first + row), place.pattern.first(column)},
            {scratch.top + row * tile_tokens, scratch.totals + row * tile_tokens * lanes, sums, stride});
        multiply<T, isa, true>({pair.rows, pair.columns, stride}, {scratch.scores, tile_tokens, 1},
                               {scratch.v, stride}, {sums, stride});
      });
  for (int i = 0; i < place.count; ++i) {
    const int first = place.begin + place.pattern.first(place.first + i);
    for (int r = 0; r < place.pattern.tokens(place.first + i); ++r) {
      const int row = i * tile_tokens + r;
      const T total = sum_lanes<T, isa>(load<T, isa>(scratch.totals + row * lanes));
      const T factor = total == 0 ? T{0} : T{1} / total;
      log_sums[(first + r) * std::int64_t{y.heads} + place.head] =
          (scratch.top[row] + std::log2(total)) * static_cast<T>(ln_2);
      unpack<T, isa>(scratch.sums + row * stride, factor, head_rows(y, first + r, 1, place.head));
    }
  }
}

template <class T>
struct BackwardArguments {
  AttentionInputs<T> in;
  Heads<const T> dy;
  AttentionGradients<T> out;
  const T *log_sums, *dots;  ///< [tokens, heads]; dots = dy y - dlog_sums
};

/// One tile of queries and one of keys in scratch.
template <class T>
struct PackedPair {
  const T *q, *dy, *k_columns, *v_columns;
};

template <class T, Isa isa>
struct BackwardArrays {
  /// The task's own tiles, in the forms that rows (q, dy) or keys take.
  BackwardArrays(Layout& layout, int width, int row_tiles, int key_tiles)
      : q(layout.take<T>(row_tiles * tile_tokens * padded_width<T, isa>(width))),
        dy(layout.take<T>(row_tiles * tile_tokens * padded_width<T, isa>(width))),
        k(layout.take<T>(tile_tokens * padded_width<T, isa>(width))),
        k_columns(layout.take<T>(key_tiles * tile_tokens * width)),
        v_columns(layout.take<T>(key_tiles * tile_tokens * width)),
        sums(layout.take<T>(task_rows * padded_width<T, isa>(width))),
        value_sums(layout.take<T>(key_tiles * tile_tokens * padded_width<T, isa>(width))),
        scores(layout.take<T>(tile_tokens * tile_tokens)),
        slopes(layout.take<T>(tile_tokens * tile_tokens)) {}
  T *q, *dy, *k, *k_columns, *v_columns, *sums, *value_sums, *scores, *slopes;
};

/// Weights and gradients of the scores of one pair of tiles, in scratch.
template <class T, Isa isa>
void differentiate(const BackwardArrays<T, isa>& scratch, const PackedPair<T>& packed, const TilePlace& place,
                   const BackwardArguments<T>& arguments, const SparseScore<T, isa>& score,
                   const ScoreTile<T>& tile) {
  const int width = arguments.in.q.width, stride = padded_width<T, isa>(width);
  multiply<T, isa, false>({tile.rows, width, tile.columns}, {packed.q, stride, 1},
                          {packed.k_columns, tile_tokens}, {scratch.scores, tile_tokens});
  multiply<T, isa, false>({tile.rows, width, tile.columns}, {packed.dy, stride, 1},
                          {packed.v_columns, tile_tokens}, {scratch.slopes, tile_tokens});
  const std::int64_t heads = arguments.in.q.heads, at = (place.begin + tile.query) * heads + place.head;
  score.differentiate(place, tile, arguments.log_sums + at, arguments.dots + at, heads);
}

/// dq of the task's queries.
template <class T, Isa isa>
void query_task(const TilePlace& place, const BackwardArguments<T>& arguments,
                const SparseScore<T, isa>& score) {
  const auto& [in, dy, out, log_sums, dots] = arguments;
  const int width = in.q.width, stride = padded_width<T, isa>(width), tile_size = tile_tokens * stride;
  auto scratch = thread_scratch<BackwardArrays<T, isa>>(width, task_tiles, 1);
  for (int i = 0; i < place.count; ++i) {
    pack<T, isa>(place.rows(in.q, place.first + i), score.query_factor(), scratch.q + i * tile_size);
    pack<T, isa>(place.rows(dy, place.first + i), T{1}, scratch.dy + i * tile_size);
  }
  std::memset(scratch.sums, 0, sizeof(T) * static_cast<std::size_t>(place.count * tile_size));
  walk(
      place,
      [&](int column) {
        pack_transposed(place.rows(in.k, column), scratch.k_columns, tile_tokens);
        pack_transposed(place.rows(in.v, column), scratch.v_columns, tile_tokens);
        pack<T, isa>(place.rows(in.k, column), T{1}, scratch.k);
      },
      [&](int row, int column, const TilePair& pair) {
        differentiate<T, isa>(
            scratch,
            {scratch.q + row * tile_size, scratch.dy + row * tile_size, scratch.k_columns, scratch.v_columns},
            place, arguments, score,
            {scratch.scores, scratch.slopes, pair.rows, pair.columns, pair.is_partial,
             place.pattern.first(place.first + row), place.pattern.first(column)});
        multiply<T, isa, true>({pair.rows, pair.columns, stride}, {scratch.slopes, tile_tokens, 1},
                               {scratch.k, stride}, {scratch.sums + row * tile_size, stride});
      });
  for (int i = 0; i < place.count; ++i)
    unpack<T, isa>(scratch.sums + i * tile_size, score.dq_factor(), place.rows(out.dq, place.first + i));
}

/// dk and dv of the task's keys.
template <class T, Isa isa>
void key_task(const TilePlace& place, const BackwardArguments<T>& arguments, const SparseScore<T, isa>& score) {
  const auto& [in, dy, out, log_sums, dots] = arguments;
  const int width = in.q.width, stride = padded_width<T, isa>(width), tile_size = tile_tokens * stride;
  auto scratch = thread_scratch<BackwardArrays<T, isa>>(width, 1, task_tiles);
  for (int i = 0; i < place.count; ++i) {
    const int columns = i * tile_tokens * width;
    pack_transposed(place.rows(in.k, place.first + i), scratch.k_columns + columns, tile_tokens);
    pack_transposed(place.rows(in.v, place.first + i), scratch.v_columns + columns, tile_tokens);
  }
  const std::size_t bytes = sizeof(T) * static_cast<std::size_t>(place.count * tile_size);
  std::memset(scratch.sums, 0, bytes);
  std::memset(scratch.value_sums, 0, bytes);
  walk(
      place,
      [&](int query) {
        pack<T, isa>(place.rows(in.q, query), score.query_factor(), scratch.q);
        pack<T, isa>(place.rows(dy, query), T{1}, scratch.dy);
      },
      [&](int row, int query, const TilePair& pair) {  // the task's rows are the tile's columns
        const int columns = row * tile_tokens * width;
        differentiate<T, isa>(scratch,
                              {scratch.q, scratch.dy, scratch.k_columns + columns, scratch.v_columns + columns},
                              place, arguments, score,
                              {scratch.scores, scratch.slopes, pair.columns, pair.rows, pair.is_partial,
                               place.pattern.first(query), place.pattern.first(place.first + row)});
        multiply<T, isa, true>({pair.rows, pair.columns, stride}, {scratch.scores, 1, tile_tokens},
                               {scratch.dy, stride}, {scratch.value_sums + row * tile_size, stride});
        multiply<T, isa, true>({pair.rows, pair.columns, stride}, {scratch.slopes, 1, tile_tokens},
                               {scratch.q, stride}, {scratch.sums + row * tile_size, stride});
      });
  for (int i = 0; i < place.count; ++i) {
    unpack<T, isa>(scratch.sums + i * tile_size, score.dk_factor(), place.rows(out.dk, place.first + i));
    unpack<T, isa>(scratch.value_sums + i * tile_size, T{1}, place.rows(out.dv, place.first + i));
  }
}

/// dots[token, head] = sum_c y dy - dlog_sums.
template <class T>
void multiply_rows(const SparseResult<T>& result, const SparseSlopes<T>& slopes, T* dots) {
  const int heads = result.y.heads, width = result.y.width;
  parallel_for(result.y.tokens, 64, [&](std::int64_t token) {
    for (int head = 0; head < heads; ++head) {
      const T *y = result.y.row(token, head), *dy = slopes.dy.row(token, head);
      T sum = slopes.dlog_sums == nullptr ? T{0} : -slopes.dlog_sums[token * heads + head];
      for (int c = 0; c < width; ++c) sum += y[c] * dy[c];
      dots[token * heads + head] = sum;
    }
  });
}

}  // namespace

template <class T, Isa isa>
void sparse_attention_forward(Cpu<isa>&, const Sequences& sequences, const AttentionInputs<T>& in,
                              const SparseOptions& options, Heads<T> y, T* log_sums) {
  clear_unused(sequences, y);
  std::fill(log_sums + sequences.offsets[sequences.count] * std::int64_t{y.heads},
            log_sums + y.tokens * y.heads, T{0});
  const TileTasks tiles(sequences, y.heads, {options.pattern.block});
  const SparseScore<T, isa> score(options.scale);
  parallel_for(tiles.tasks().count(), 1, [&](std::int64_t task) {
    const TilePlace place(tiles.tasks()[task], sequences, options.pattern, RowSide::queries);
    forward_task<T, isa>(place, in, score, y, log_sums);
  });
}

template <class T, Isa isa>
void sparse_attention_backward(Cpu<isa>&, const Sequences& sequences, const AttentionInputs<T>& in,
                               const SparseOptions& options, const SparseResult<T>& result,
                               const SparseSlopes<T>& slopes, const AttentionGradients<T>& out) {
  for (const Heads<T>& target : {out.dq, out.dk, out.dv}) clear_unused(sequences, target);
  const Buffer<T> dots(in.q.heads * in.q.tokens);
  multiply_rows(result, slopes, dots.data());
  const TileTasks tiles(sequences, in.q.heads, {options.pattern.block});
  const SparseScore<T, isa> score(options.scale);
  const BackwardArguments<T> arguments{in, slopes.dy, out, result.log_sums, dots.data()};
  parallel_for(tiles.tasks().count(), 1, [&](std::int64_t task) {
    query_task<T, isa>({tiles.tasks()[task], sequences, options.pattern, RowSide::queries}, arguments, score);
  });
  parallel_for(tiles.tasks().count(), 1, [&](std::int64_t task) {
    key_task<T, isa>({tiles.tasks()[task], sequences, options.pattern, RowSide::keys}, arguments, score);
  });
}

#define INSTANTIATE(T)                                                                                    \
  template void sparse_attention_forward<T>(Cpu<TERN_ISA>&, const Sequences&, const AttentionInputs<T>&,  \
                                            const SparseOptions&, Heads<T>, T*);                          \
  template void sparse_attention_backward<T>(Cpu<TERN_ISA>&, const Sequences&, const AttentionInputs<T>&, \
                                             const SparseOptions&, const SparseResult<T>&,                \
                                             const SparseSlopes<T>&, const AttentionGradients<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
