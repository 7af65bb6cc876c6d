// What the passes of sparse_attention.cpp share: tasks counted in tiles, the walk over visible tiles, and what
// a tile's products mean.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention_pattern.h"
#include "kernels/cpu/attention_tasks.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/tiles.h"
#include "kernels/sparse_attention.h"

namespace tern::kernels {
namespace {

/// The running maximum of a row is raised only when a score exceeds it by this much.
constexpr int most_excess = 8;

constexpr int task_tiles = 8, task_rows = task_tiles * tile_tokens;
constexpr ChunkRule tile_rule{.shortest = task_tiles, .step = 1, .most = 1 << 30};

/// The tasks of sequences that are counted in tiles.
class TileTasks {
 public:
  TileTasks(const Sequences& sequences, int heads, TileCut cut)
      : offsets_(sequences.count + 1), counted_(sequences), tasks_(count(cut), heads, tile_rule) {}
  const AttentionTasks& tasks() const { return tasks_; }

 private:
  const Sequences& count(TileCut cut) {
    offsets_[0] = 0;
    for (std::int64_t s = 0; s < counted_.count; ++s)
      offsets_[s + 1] = offsets_[s] + cut.count(counted_.offsets[s + 1] - counted_.offsets[s]);
    counted_.offsets = offsets_.data();
    return counted_;
  }
  Buffer<std::int32_t> offsets_;
  Sequences counted_;
  AttentionTasks tasks_;
};

/// Where a task lies: tiles first .. first + count - 1 of a sequence whose first token is `begin`.
struct TilePlace {
  int begin, head, first, count;
  TiledPattern pattern;
  const std::int32_t* position;  ///< of the sequence's tokens

  TilePlace(const AttentionTask& task, const Sequences& sequences, const AttentionPattern& rule, RowSide side)
      : begin(sequences.offsets[task.sequence]),
        head(task.head),
        first(static_cast<int>(task.first - task.begin)),
        count(static_cast<int>(task.count)),
        pattern(rule, side, sequences.offsets[task.sequence + 1] - begin, task.head),
        position(sequences.position + begin) {}

  /// The head's rows of a tile.
  template <class T>
  HeadRows<T> rows(const Heads<T>& view, int tile) const {
    return head_rows(view, begin + pattern.first(tile), pattern.tokens(tile), head);
  }
};

/// stage(column) for each tile that any of the task's tiles is paired with, each time followed by
/// visit(row, column, pair) for those; `row` counts in the task.
template <class Stage, class Visit>
void walk(const TilePlace& place, const Stage& stage, const Visit& visit) {
  const TiledPattern& pattern = place.pattern;
  int next[task_tiles];
  for (int row = 0; row < place.count; ++row) next[row] = pattern.next(place.first + row, 0);
  for (;;) {
    int column = pattern.tiles();
    for (int row = 0; row < place.count; ++row) column = lesser(column, next[row]);
    if (column == pattern.tiles()) return;
    stage(column);
    for (int row = 0; row < place.count; ++row) {
      if (next[row] != column) continue;
      const TilePair pair = pattern.pair(place.first + row, column, place.position);
      if (pair.rows > 0) visit(row, column, pair);
      next[row] = pattern.next(place.first + row, column + 1);
    }
  }
}

/// A block of scores, queries by keys: element (r, c) belongs to tokens `query` + r and `key` + c of the
/// sequence.
template <class T>
struct ScoreTile {
  T* scores;
  T* slopes;  ///< backward only
  int rows, columns;
  bool is_partial;
  int query, key;
};

template <class T, Isa isa>
class SparseScore {
 public:
  static constexpr int lanes = Simd<T, isa>::lanes;
  using V = Vector<T, isa>;

  explicit SparseScore(double scale) : scale_(scale) {}

  T query_factor() const { return static_cast<T>(scale_ * log2_e); }
  T dq_factor() const { return static_cast<T>(scale_); }
  T dk_factor() const { return static_cast<T>(ln_2); }

  /// The running values of a tile's rows.
  struct Rows {
    T* top;     ///< reference maximum of each row, base 2
    T* totals;  ///< [rows, lanes] sums of the weights
    T* sums;    ///< [rows, stride] weighted sums
    int stride;
  };

  /// Scores -> weights, in place; may rescale the rows' sums.
  void weigh(const TilePlace& place, const ScoreTile<T>& tile, const Rows& rows) const {
    hide(place, tile);
    for (int r = 0; r < tile.rows; ++r) {
      T* scores = tile.scores + r * tile_tokens;
      const T top = raised_top(tile, r, rows);
      T* totals = rows.totals + r * lanes;
      V total = load<T, isa>(totals);
      for (int c = 0; c < tile.columns; c += lanes) {
        const V weight = weight_of(load<T, isa>(scores + c), top);
        total += weight;
        store<T, isa>(scores + c, weight);
      }
      store<T, isa>(totals, total);
    }
  }

  /// Scores -> weights, slopes (dy v) -> gradients of the scores; lse and dot of each row, `step` apart.
  void differentiate(const TilePlace& place, const ScoreTile<T>& tile, const T* lse, const T* dots,
                     std::int64_t step) const {
    hide(place, tile);
    for (int r = 0; r < tile.rows; ++r) {
      T* scores = tile.scores + r * tile_tokens;
      T* slopes = tile.slopes + r * tile_tokens;
      const T shift = lse[r * step] * static_cast<T>(log2_e);
      const V dot = broadcast<T, isa>(dots[r * step]);
      for (int c = 0; c < tile.columns; c += lanes) {
        const V weight = weight_of(load<T, isa>(scores + c), shift);
        store<T, isa>(scores + c, weight);
        store<T, isa>(slopes + c, weight * (load<T, isa>(slopes + c) - dot));
      }
    }
  }

 private:
  /// 2^(score - top), exactly 0 for a score of -infinity.
  static V weight_of(V score, T top) {
    const V nothing = broadcast<T, isa>(-std::numeric_limits<T>::infinity());
    return score == nothing ? V{} : power_of_two<T, isa>(score - broadcast<T, isa>(top));
  }

  /// -infinity for pairs that are not visible and behind the last column.
  void hide(const TilePlace& place, const ScoreTile<T>& tile) const {
    constexpr T nothing = -std::numeric_limits<T>::infinity();
    const TiledPattern pattern = place.pattern;
    const int end = round_up(tile.columns, lanes);
    for (int r = 0; r < tile.rows; ++r) {
      T* scores = tile.scores + r * tile_tokens;
      if (tile.is_partial) {
        const std::int32_t* position = place.position + tile.key;
        const int own = place.position[tile.query + r];
        for (int c = 0; c < tile.columns; ++c) {
          const bool is_seen = pattern.sees(tile.query + r, tile.key + c, own, position[c]);
          const T score = scores[c];
          scores[c] = is_seen ? score : nothing;
        }
      }
      for (int c = tile.columns; c < end; ++c) scores[c] = nothing;
    }
  }

  /// The row's reference maximum after this tile; rescales its sums if the old one is outgrown.
  T raised_top(const ScoreTile<T>& tile, int r, const Rows& rows) const {
    const T* scores = tile.scores + r * tile_tokens;
    V most = load<T, isa>(scores);
    for (int c = lanes; c < tile.columns; c += lanes) most = larger<T, isa>(load<T, isa>(scores + c), most);
    const T found = largest_lane<T, isa>(most);
    T& top = rows.top[r];
    if (!(found > top + most_excess)) return top;
    const V factor = power_of_two<T, isa>(broadcast<T, isa>(top - found));
    T* totals = rows.totals + r * lanes;
    T* sums = rows.sums + r * rows.stride;
    store<T, isa>(totals, load<T, isa>(totals) * factor);
    for (int c = 0; c < rows.stride; c += lanes) store<T, isa>(sums + c, load<T, isa>(sums + c) * factor);
    return top = found;
  }

  double scale_;
};

}  // namespace
}  // namespace tern::kernels
