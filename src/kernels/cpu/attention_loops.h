// The loops that softmax attention and the expected form of YOSO share. A score says what a product q . k
// means:
//
//   Score::Rows(Layout&, queries, keys)  per-thread arrays
//   begin(rows, count)                   a chunk of `count` queries starts
//   weigh(rows, tile)                    scores -> weights, in place; may rescale the tile's sums
//   finish(rows, task, row)              factor of the chunk's row `row` of sums; may store statistics
//   differentiate(rows, tile)            scores -> weights for dv, slopes (dout . v) -> gradients of the scores
//   query_factor(), dq_factor(), dk_factor()   of the packed queries and of the two gradients
#pragma once

#include <algorithm>

#include "base/parallel.h"
#include "kernels/attention.h"
#include "kernels/cpu/attention_tasks.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/tiles.h"
#include "kernels/cpu/unused_rows.h"

namespace tern::kernels {
namespace {

/// A block of scores: element (r, c) belongs to query token `query` + r and key token `key` + c.
template <class T>
struct ScoreTile {
  T* scores;
  T* slopes;  ///< backward only
  int stride, rows, columns;
  std::int64_t query, key, sample;
  std::int64_t begin;  ///< first token of the sequence
  int head;
  int row;             ///< place of the first query in its chunk
  Block<T> sums = {};  ///< forward only: the rows' weighted sums so far
  int sums_width = 0;
};

constexpr int forward_queries = 64, forward_keys = 128;
constexpr ChunkRule forward_rule{.shortest = 512, .step = forward_queries, .most = 1 << 30};

template <class T, Isa isa, class Score>
struct ForwardArrays {
  ForwardArrays(Layout& layout, int queries, int width)
      : q(layout.take<T>(round_up(queries, block_step) * padded_width<T, isa>(width))),
        sums(layout.take<T>(round_up(queries, block_step) * padded_width<T, isa>(width))),
        k(layout.take<T>(forward_keys * width)),
        v(layout.take<T>(forward_keys * padded_width<T, isa>(width))),
        scores(layout.take<T>(forward_queries * forward_keys)),
        rows(layout, queries, forward_keys) {}
  T *q, *sums, *k, *v, *scores;
  typename Score::Rows rows;
};

/// One chunk of queries against all keys of its sequence, by blocks of keys.
template <class T, Isa isa, class Score>
void forward_chunk(const AttentionTask& task, const AttentionInputs<T>& in, const Score& score, Heads<T> out) {
  const int width = in.q.width, stride = padded_width<T, isa>(width), count = static_cast<int>(task.count);
  auto scratch = thread_scratch<ForwardArrays<T, isa, Score>>(count, width);
  pack<T, isa>(head_rows(in.q, task.first, count, task.head), score.query_factor(), scratch.q);
  std::memset(scratch.sums, 0, sizeof(T) * static_cast<std::size_t>(round_up(count, block_step) * stride));
  score.begin(scratch.rows, count);
  for (std::int64_t key = task.begin; key < task.end; key += forward_keys) {
    const int columns = static_cast<int>(std::min<std::int64_t>(forward_keys, task.end - key));
    pack_transposed(head_rows(in.k, key, columns, task.head), scratch.k, forward_keys);
    pack<T, isa>(head_rows(in.v, key, columns, task.head), T{1}, scratch.v);
    for (int row = 0; row < count; row += forward_queries) {
      const int rows = std::min(forward_queries, count - row);
      const Block<T> sums{scratch.sums + row * stride, stride};
      multiply<T, isa, false>({rows, width, columns}, {scratch.q + row * stride, stride, 1},
                              {scratch.k, forward_keys}, {scratch.scores, forward_keys});
      score.weigh(scratch.rows, ScoreTile<T>{.scores = scratch.scores,
                                             .slopes = nullptr,
                                             .stride = forward_keys,
                                             .rows = rows,
                                             .columns = columns,
                                             .query = task.first + row,
                                             .key = key,
                                             .sample = task.sample,
                                             .begin = task.begin,
                                             .head = task.head,
                                             .row = row,
                                             .sums = sums,
                                             .sums_width = stride});
      multiply<T, isa, true>({rows, columns, stride}, {scratch.scores, forward_keys, 1}, {scratch.v, stride},
                             sums);
    }
  }
  for (int row = 0; row < count; ++row) {
    const T factor = score.finish(scratch.rows, task, row);
    unpack<T, isa>(scratch.sums + row * stride, factor, head_rows(out, task.first + row, 1, task.head));
  }
}

template <class T, Isa isa, class Score>
void attention_forward(const Sequences& sequences, const AttentionInputs<T>& in, const Score& score,
                       Heads<T> out) {
  clear_unused(sequences, out);
  const AttentionTasks tasks(sequences, in.q.heads, forward_rule);
  parallel_for(tasks.count(), 1,
               [&](std::int64_t task) { forward_chunk<T, isa>(tasks[task], in, score, out); });
}

// Backward: a task owns a chunk of keys, whose dk and dv it sums over all queries. Its share of dq goes to dq
// itself (first chunk) or to an array of its own; a second pass adds the shares in the order of the chunks.
constexpr int backward_queries = 64, backward_keys = 64, resident_keys = 256;
constexpr ChunkRule backward_rule{.shortest = 1024, .step = resident_keys, .most = 8};

template <class T, Isa isa, class Score>
struct BackwardArrays {
  explicit BackwardArrays(Layout& layout, int width)
      : q(layout.take<T>(backward_queries * padded_width<T, isa>(width))),
        dout(layout.take<T>(backward_queries * padded_width<T, isa>(width))),
        dq(layout.take<T>(backward_queries * padded_width<T, isa>(width))),
        k(layout.take<T>(resident_keys * padded_width<T, isa>(width))),
        dk(layout.take<T>(resident_keys * padded_width<T, isa>(width))),
        dv(layout.take<T>(resident_keys * padded_width<T, isa>(width))),
        k_columns(layout.take<T>(resident_keys * width)),
        v_columns(layout.take<T>(resident_keys * width)),
        scores(layout.take<T>(backward_queries * backward_keys)),
        slopes(layout.take<T>(backward_queries * backward_keys)),
        rows(layout, backward_queries, backward_keys) {}
  T *q, *dout, *dq, *k, *dk, *dv, *k_columns, *v_columns, *scores, *slopes;
  typename Score::Rows rows;
};

/// Adds one block of queries x keys to dq, dk and dv; `place` is the first key's row among the resident keys.
template <class T, Isa isa, class Score>
void backward_tile(BackwardArrays<T, isa, Score>& scratch, const Score& score, int width, int place,
                   const ScoreTile<T>& tile) {
  const int stride = padded_width<T, isa>(width), rows = tile.rows, columns = tile.columns;
  const Block<T> scores{scratch.scores, backward_keys}, slopes{scratch.slopes, backward_keys};
  multiply<T, isa, false>({rows, width, columns}, {scratch.q, stride, 1},
                          {scratch.k_columns + place * width, backward_keys}, scores);
  multiply<T, isa, false>({rows, width, columns}, {scratch.dout, stride, 1},
                          {scratch.v_columns + place * width, backward_keys}, slopes);
  score.differentiate(scratch.rows, tile);
  multiply<T, isa, true>({rows, columns, stride}, {scratch.slopes, backward_keys, 1},
                         {scratch.k + place * stride, stride}, {scratch.dq, stride});
  multiply<T, isa, true>({columns, rows, stride}, {scratch.scores, 1, backward_keys}, {scratch.dout, stride},
                         {scratch.dv + place * stride, stride});
  multiply<T, isa, true>({columns, rows, stride}, {scratch.slopes, 1, backward_keys}, {scratch.q, stride},
                         {scratch.dk + place * stride, stride});
}

template <class T>
struct BackwardArguments {
  AttentionInputs<T> in;
  Heads<const T> dout;
  AttentionGradients<T> out;
};

/// The task's keys from token `key` on, at most resident_keys, against all queries of the sequence. `dq`, the
/// sequence's rows, is overwritten by the task's first keys and added to by the others.
template <class T, Isa isa, class Score>
void backward_keys_pass(const AttentionTask& task, std::int64_t key, const BackwardArguments<T>& arguments,
                        const Score& score, const HeadRows<T>& dq) {
  const auto& [in, dout, out] = arguments;
  const int width = in.q.width, stride = padded_width<T, isa>(width);
  const int keys = static_cast<int>(std::min<std::int64_t>(resident_keys, task.first + task.count - key));
  auto scratch = thread_scratch<BackwardArrays<T, isa, Score>>(width);
  pack<T, isa>(head_rows(in.k, key, keys, task.head), T{1}, scratch.k);
  for (int place = 0; place < keys; place += backward_keys) {
    const int columns = std::min(backward_keys, keys - place);
    pack_transposed(head_rows(in.k, key + place, columns, task.head), scratch.k_columns + place * width,
                    backward_keys);
    pack_transposed(head_rows(in.v, key + place, columns, task.head), scratch.v_columns + place * width,
                    backward_keys);
  }
  const std::size_t key_bytes = sizeof(T) * static_cast<std::size_t>(round_up(keys, block_step) * stride);
  std::memset(scratch.dk, 0, key_bytes);
  std::memset(scratch.dv, 0, key_bytes);
  for (std::int64_t query = task.begin; query < task.end; query += backward_queries) {
    const int rows = static_cast<int>(std::min<std::int64_t>(backward_queries, task.end - query));
    pack<T, isa>(head_rows(in.q, query, rows, task.head), score.query_factor(), scratch.q);
    pack<T, isa>(head_rows(dout, query, rows, task.head), T{1}, scratch.dout);
    std::memset(scratch.dq, 0, sizeof(T) * static_cast<std::size_t>(backward_queries * stride));
    for (int place = 0; place < keys; place += backward_keys) {
      backward_tile<T, isa>(scratch, score, width, place,
                            ScoreTile<T>{.scores = scratch.scores,
                                         .slopes = scratch.slopes,
                                         .stride = backward_keys,
                                         .rows = rows,
                                         .columns = std::min(backward_keys, keys - place),
                                         .query = query,
                                         .key = key + place,
                                         .sample = task.sample,
                                         .begin = task.begin,
                                         .head = task.head,
                                         .row = 0});
    }
    const HeadRows<T> target{dq.data + (query - task.begin) * dq.stride, dq.stride, rows, width};
    if (key != task.first) {
      unpack<T, isa, true>(scratch.dq, score.dq_factor(), target);
    } else {
      unpack<T, isa>(scratch.dq, score.dq_factor(), target);
    }
  }
  unpack<T, isa>(scratch.dk, score.dk_factor(), head_rows(out.dk, key, keys, task.head));
  unpack<T, isa>(scratch.dv, T{1}, head_rows(out.dv, key, keys, task.head));
}

/// Where the shares of dq lie: for each sequence [chunk - 1, head, token of the sequence, width].
template <class T>
class QueryShares {
 public:
  QueryShares(const Sequences& sequences, int heads, int width)
      : heads_(heads), width_(width), first_(sequences.count), shares_(place_all(sequences)) {}
  T* rows(const AttentionTask& task, int chunk, std::int64_t token) const {
    const std::int64_t tokens = task.end - task.begin;
    return shares_.data() +
           (first_[task.sequence] + ((chunk - 1) * heads_ + task.head) * tokens + token - task.begin) * width_;
  }

 private:
  std::int64_t place_all(const Sequences& sequences) {
    std::int64_t rows = 0;
    for (std::int64_t s = 0; s < sequences.count; ++s) {
      first_[s] = rows;
      const std::int64_t tokens = sequences.offsets[s + 1] - sequences.offsets[s];
      if (tokens > 0) rows += (backward_rule.chunks(tokens) - 1) * tokens * heads_;
    }
    return rows * width_;
  }
  std::int64_t heads_, width_;
  Buffer<std::int64_t> first_;
  Buffer<T> shares_;
};

template <class T, Isa isa, class Score>
void attention_backward(const Sequences& sequences, const BackwardArguments<T>& arguments, const Score& score) {
  const Heads<T>& out = arguments.out.dq;
  const int width = out.width;
  for (const Heads<T>& target : {out, arguments.out.dk, arguments.out.dv}) clear_unused(sequences, target);
  const AttentionTasks tasks(sequences, out.heads, backward_rule);
  const QueryShares<T> shares(sequences, out.heads, width);
  parallel_for(tasks.count(), 1, [&](std::int64_t index) {
    const AttentionTask task = tasks[index];
    const int tokens = static_cast<int>(task.end - task.begin);
    const HeadRows<T> dq = task.chunk == 0
                               ? head_rows(out, task.begin, tokens, task.head)
                               : HeadRows<T>{shares.rows(task, task.chunk, task.begin), width, tokens, width};
    for (std::int64_t key = task.first; key < task.first + task.count; key += resident_keys) {
      backward_keys_pass<T, isa>(task, key, arguments, score, dq);
    }
  });
  parallel_for(tasks.count(), 1, [&](std::int64_t index) {
    const AttentionTask task = tasks[index];
    const HeadRows<T> dq = head_rows(out, task.first, static_cast<int>(task.count), task.head);
    for (int chunk = 1; chunk < task.chunks; ++chunk) {
      const T* share = shares.rows(task, chunk, task.first);
      for (int r = 0; r < dq.count; ++r, share += width) {
        T* row = dq.data + r * dq.stride;
        for (int c = 0; c < width; ++c) row[c] += share[c];
      }
    }
  });
}

}  // namespace
}  // namespace tern::kernels
