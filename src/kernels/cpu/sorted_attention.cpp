// Attention along a sort. The rounds follow one another; inside a round a task owns a tile of queries (forward,
// dq) or of keys (dk, dv), so that nothing is written by two, and a query's sums, its largest logit and the sum
// of its weights lie in memory between the rounds. Cost for each query and key of a tile: 2 (forward) + 7
// (backward) x width multiply-adds.
#include "base/parallel.h"
#include "kernels/cpu/attention_loops.h"
#include "kernels/cpu/sorted_tiles.h"

namespace tern::kernels {
namespace {

template <class T>
struct ForwardState {
  AttentionInputs<T> in;
  SortedOptions options;
  Heads<T> out;    ///< sums of weighted values
  T *top, *total;  ///< [heads, tokens] reference exponent and sum of weights
};

template <class T, Isa isa>
class ForwardTile {
 public:
  ForwardTile(const ForwardState<T>& state, const AttentionTask& task, int round)
      : state_(state),
        task_(task),
        round_(state.options, task, state.in.q.tokens, round),
        is_first_(round == 0),
        tile_(thread_scratch<SortedTile<T, isa>>(state.in.q.width, state.options.rounds)) {}

  void run() {
    const int first = static_cast<int>(task_.first - task_.begin);
    count_ = static_cast<int>(task_.count);
    round_.load_queries(first, count_, tile_.queries);
    gather<T, isa>(state_.in.q, task_.head, tile_.queries.token, count_,
                   static_cast<T>(state_.options.scale * log2_e), tile_.q);
    load_state();
    const PlaceRanges ranges = round_.keys_of(first, first + count_);
    for (int i = 0; i < 2; ++i) {
      round_.meet_keys(i);
      for (int key = ranges.first[i]; key < ranges.last[i]; key += sorted_tile)
        attend(key, std::min(sorted_tile, ranges.last[i] - key));
    }
    scatter<T, isa, false>(tile_.sums, T{1}, tile_.queries.token, count_, task_.head, state_.out);
    for (int r = 0; r < count_; ++r) {
      state_.top[place(r)] = top_[r];
      state_.total[place(r)] = total_[r];
    }
  }

 private:
  static constexpr int lanes = Simd<T, isa>::lanes;
  using V = Vector<T, isa>;

  std::int64_t place(int r) const { return task_.head * state_.in.q.tokens + tile_.queries.token[r]; }

  void load_state() {
    if (is_first_) {
      std::fill(tile_.sums, tile_.sums + sorted_tile * tile_.stride, T{0});
    } else {
      const Heads<T>& out = state_.out;
      gather<T, isa>({out.data, out.tokens, out.heads, out.width, out.token_stride, out.head_stride},
                     task_.head, tile_.queries.token, count_, T{1}, tile_.sums);
    }
    for (int r = 0; r < count_; ++r) {
      top_[r] = is_first_ ? -std::numeric_limits<T>::infinity() : state_.top[place(r)];
      total_[r] = is_first_ ? T{0} : state_.total[place(r)];
    }
  }

  void attend(int key, int columns) {
    const int width = state_.in.q.width, stride = tile_.stride;
    round_.load_keys(key, columns, tile_.keys);
    gather_columns(state_.in.k, task_.head, tile_.keys.token, columns, tile_.k_columns);
    gather<T, isa>(state_.in.v, task_.head, tile_.keys.token, columns, T{1}, tile_.v);
    multiply<T, isa, false>({count_, width, columns}, {tile_.q, stride, 1}, {tile_.k_columns, sorted_tile},
                            {tile_.scores, sorted_tile});
    for (int r = 0; r < count_; ++r) weigh(r, columns);
    multiply<T, isa, true>({count_, columns, stride}, {tile_.scores, sorted_tile, 1}, {tile_.v, stride},
                           {tile_.sums, stride});
  }

  /// Scores of row r -> weights relative to the row's largest so far.
  void weigh(int r, int columns) {
    T* const scores = tile_.scores + r * sorted_tile;
    T* const factors = tile_.factors;
    const int end = round_up(columns, lanes);
    round_.weigh_pairs(tile_.queries, tile_.keys, r, columns, scores, factors);
    for (int c = columns; c < end; ++c) factors[c] = 0;
    for (int c = 0; c < end; ++c)
      scores[c] = factors[c] > T{0} ? scores[c] : -std::numeric_limits<T>::infinity();
    V most = load<T, isa>(scores);
    for (int c = lanes; c < end; c += lanes) most = larger<T, isa>(load<T, isa>(scores + c), most);
    const T found = largest_lane<T, isa>(most);
    if (found > top_[r]) raise_top(r, found);
    if (std::max(found, top_[r]) == -std::numeric_limits<T>::infinity()) {
      std::fill(scores, scores + end, T{0});
      return;
    }
    const V top = broadcast<T, isa>(top_[r]);
    V total{};
    for (int c = 0; c < end; c += lanes) {
      const V weight = power_of_two<T, isa>(load<T, isa>(scores + c) - top) * load<T, isa>(factors + c);
      total += weight;
      store<T, isa>(scores + c, weight);
    }
    total_[r] += sum_lanes<T, isa>(total);
  }

  void raise_top(int r, T found) {
    const V factor = power_of_two<T, isa>(broadcast<T, isa>(top_[r] - found));
    T* const sums = tile_.sums + r * tile_.stride;
    for (int c = 0; c < tile_.stride; c += lanes) store<T, isa>(sums + c, load<T, isa>(sums + c) * factor);
    total_[r] *= factor[0];
    top_[r] = found;
  }

  const ForwardState<T>& state_;
  const AttentionTask& task_;
  SortedRound round_;
  bool is_first_;
  SortedTile<T, isa> tile_;
  int count_ = 0;
  T top_[sorted_tile], total_[sorted_tile];
};

template <class T>
struct BackwardState {
  AttentionInputs<T> in;
  SortedOptions options;
  Heads<const T> dout;
  WeightSums<const T> sums;
  const T* dots;  ///< [heads, tokens] sum_c dout out
  AttentionGradients<T> out;
};

/// Adds a round's share of dq for a tile of queries, or of dk and dv for a tile of keys.
template <class T, Isa isa>
class BackwardTile {
 public:
  BackwardTile(const BackwardState<T>& state, const AttentionTask& task, int round)
      : state_(state),
        task_(task),
        round_(state.options, task, state.in.q.tokens, round),
        is_first_(round == 0),
        tile_(thread_scratch<SortedTile<T, isa>>(state.in.q.width, state.options.rounds)) {}

  void add_query_gradients() {
    const int first = static_cast<int>(task_.first - task_.begin), count = static_cast<int>(task_.count);
    const int width = state_.in.q.width, stride = tile_.stride;
    load_queries(first, count);
    std::fill(tile_.sums, tile_.sums + sorted_tile * stride, T{0});
    const PlaceRanges ranges = round_.keys_of(first, first + count);
    for (int i = 0; i < 2; ++i) {
      round_.meet_keys(i);
      for (int key = ranges.first[i]; key < ranges.last[i]; key += sorted_tile) {
        load_keys(key, std::min(sorted_tile, ranges.last[i] - key));
        gather<T, isa>(state_.in.k, task_.head, tile_.keys.token, keys_, T{1}, tile_.k);
        differentiate(width);
        multiply<T, isa, true>({queries_, keys_, stride}, {tile_.slopes, sorted_tile, 1}, {tile_.k, stride},
                               {tile_.sums, stride});
      }
    }
    write(tile_.sums, static_cast<T>(state_.options.scale), tile_.queries.token, count, state_.out.dq);
  }

  /// `slots`: where the samples' gradients go, rows of dk and then of dv; a token may be sampled twice.
  void add_key_gradients(int first, int count, T* slots) {
    const int width = state_.in.q.width, stride = tile_.stride;
    load_keys(first, count);
    std::fill(tile_.sums, tile_.sums + sorted_tile * stride, T{0});
    std::fill(tile_.value_sums, tile_.value_sums + sorted_tile * stride, T{0});
    const PlaceRanges ranges = round_.queries_of(first, first + count);
    for (int i = 0; i < 2; ++i) {
      round_.meet_queries(i);
      for (int query = ranges.first[i]; query < ranges.last[i]; query += sorted_tile) {
        load_queries(query, std::min(sorted_tile, ranges.last[i] - query));
        differentiate(width);
        multiply<T, isa, true>({keys_, queries_, stride}, {tile_.slopes, 1, sorted_tile}, {tile_.q, stride},
                               {tile_.sums, stride});
        multiply<T, isa, true>({keys_, queries_, stride}, {tile_.scores, 1, sorted_tile}, {tile_.dout, stride},
                               {tile_.value_sums, stride});
      }
    }
    if (slots == nullptr) {
      write(tile_.sums, static_cast<T>(ln_2), tile_.keys.token, count, state_.out.dk);
      write(tile_.value_sums, T{1}, tile_.keys.token, count, state_.out.dv);
      return;
    }
    const std::int64_t samples = state_.options.samples;
    unpack<T, isa>(tile_.sums, static_cast<T>(ln_2), {slots + first * width, width, count, width});
    unpack<T, isa>(tile_.value_sums, T{1}, {slots + (samples + first) * width, width, count, width});
  }

 private:
  static constexpr int lanes = Simd<T, isa>::lanes;
  using V = Vector<T, isa>;

  void load_queries(int first, int count) {
    queries_ = count;
    round_.load_queries(first, count, tile_.queries);
    gather<T, isa>(state_.in.q, task_.head, tile_.queries.token, count,
                   static_cast<T>(state_.options.scale * log2_e), tile_.q);
    gather<T, isa>(state_.dout, task_.head, tile_.queries.token, count, T{1}, tile_.dout);
  }
  void load_keys(int first, int count) {
    keys_ = count;
    round_.load_keys(first, count, tile_.keys);
    gather_columns(state_.in.k, task_.head, tile_.keys.token, count, tile_.k_columns);
    gather_columns(state_.in.v, task_.head, tile_.keys.token, count, tile_.v_columns);
  }
  void write(const T* sums, T factor, const std::int32_t* token, int count, const Heads<T>& to) const {
    is_first_ ? scatter<T, isa, false>(sums, factor, token, count, task_.head, to)
              : scatter<T, isa, true>(sums, factor, token, count, task_.head, to);
  }

  /// scores = weights, slopes = gradients of the logits; rows behind the last query become zero.
  void differentiate(int width) {
    const int stride = tile_.stride, end = round_up(keys_, lanes);
    multiply<T, isa, false>({queries_, width, keys_}, {tile_.q, stride, 1}, {tile_.k_columns, sorted_tile},
                            {tile_.scores, sorted_tile});
    multiply<T, isa, false>({queries_, width, keys_}, {tile_.dout, stride, 1}, {tile_.v_columns, sorted_tile},
                            {tile_.slopes, sorted_tile});
    for (int r = 0; r < queries_; ++r) {
      T* const scores = tile_.scores + r * sorted_tile;
      T* const slopes = tile_.slopes + r * sorted_tile;
      round_.weigh_pairs(tile_.queries, tile_.keys, r, keys_, scores, tile_.factors);
      for (int c = keys_; c < end; ++c) tile_.factors[c] = 0;
      for (int c = 0; c < end; ++c)
        scores[c] = tile_.factors[c] > T{0} ? scores[c] : -std::numeric_limits<T>::infinity();
      const std::int64_t place = task_.head * state_.in.q.tokens + tile_.queries.token[r];
      const V top = broadcast<T, isa>(state_.sums.top[place]), dot = broadcast<T, isa>(state_.dots[place]),
              inverse = broadcast<T, isa>(state_.sums.inverse[place]);
      for (int c = 0; c < end; c += lanes) {
        const V weight =
            power_of_two<T, isa>(load<T, isa>(scores + c) - top) * (load<T, isa>(tile_.factors + c) * inverse);
        store<T, isa>(scores + c, weight);
        store<T, isa>(slopes + c, weight * (load<T, isa>(slopes + c) - dot));
      }
    }
  }

  const BackwardState<T>& state_;
  const AttentionTask& task_;
  SortedRound round_;
  bool is_first_;
  SortedTile<T, isa> tile_;
  int queries_ = 0, keys_ = 0;
};

/// The samples' shares of dk and dv: by slots, then added to the tokens in the order of the slots.
template <class T, Isa isa>
void add_sample_gradients(const Sequences& sequences, const BackwardState<T>& state) {
  const int heads = state.in.q.heads, width = state.in.q.width, samples = state.options.samples;
  const Buffer<T> slots(sequences.count * heads * 2 * samples * width);
  constexpr ChunkRule whole{.shortest = 1 << 30, .step = 1, .most = 1};
  const AttentionTasks tasks(sequences, heads, whole);
  const int tiles = (samples + sorted_tile - 1) / sorted_tile;
  const auto slots_of = [&](const AttentionTask& task) {
    return slots.data() + (task.sequence * heads + task.head) * 2 * samples * width;
  };
  parallel_for(tasks.count() * tiles, 1, [&](std::int64_t index) {
    const AttentionTask task = tasks[index / tiles];
    const int first = static_cast<int>(index % tiles) * sorted_tile;
    if (state.options.samples_of(static_cast<int>(task.end - task.begin)) == 0) return;
    BackwardTile<T, isa>(state, task, state.options.rounds)
        .add_key_gradients(first, std::min(sorted_tile, samples - first), slots_of(task));
  });
  parallel_for(tasks.count(), 1, [&](std::int64_t index) {
    const AttentionTask task = tasks[index];
    const int tokens = static_cast<int>(task.end - task.begin);
    const T* from = slots_of(task);
    for (int slot = 0; slot < state.options.samples_of(tokens); ++slot, from += width) {
      const std::int64_t token =
          task.begin + sampled_key(state.options.stream, task.sample, task.head, slot, tokens);
      T *dk = state.out.dk.row(token, task.head), *dv = state.out.dv.row(token, task.head);
      for (int c = 0; c < width; ++c) dk[c] += from[c];
      for (int c = 0; c < width; ++c) dv[c] += from[samples * width + c];
    }
  });
}

}  // namespace

template <class T, Isa isa>
void sorted_attention_forward(Cpu<isa>&, const Sequences& sequences, const AttentionInputs<T>& in,
                              const SortedOptions& options, Heads<T> out, const WeightSums<T>& sums) {
  clear_unused(sequences, out);
  const ForwardState<T> state{in, options, out, sums.top, sums.inverse};
  const AttentionTasks tasks(sequences, in.q.heads, sorted_rule);
  const int rounds = options.rounds + (options.samples > 0 ? 1 : 0);
  for (int round = 0; round < rounds; ++round)
    parallel_for(tasks.count(), 1, [&](std::int64_t index) {
      const AttentionTask task = tasks[index];
      ForwardTile<T, isa>(state, task, round).run();
    });
  parallel_for(sequences.offsets[sequences.count], sorted_tile, [&](std::int64_t token) {
    for (int head = 0; head < in.q.heads; ++head) {
      const std::int64_t place = head * in.q.tokens + token;
      const T factor = sums.inverse[place] = 1 / sums.inverse[place];
      T* row = out.row(token, head);
      for (int c = 0; c < out.width; ++c) row[c] *= factor;
    }
  });
}

template <class T, Isa isa>
void sorted_attention_backward(Cpu<isa>&, const Sequences& sequences, const AttentionInputs<T>& in,
                               const SortedOptions& options, Heads<const T> out,
                               const WeightSums<const T>& sums, Heads<const T> dout,
                               const AttentionGradients<T>& gradients) {
  for (const Heads<T>& target : {gradients.dq, gradients.dk, gradients.dv}) clear_unused(sequences, target);
  const Buffer<T> dots(in.q.heads * in.q.tokens);
  parallel_for(sequences.offsets[sequences.count], sorted_tile, [&](std::int64_t token) {
    for (int head = 0; head < in.q.heads; ++head) {
      const T *left = dout.row(token, head), *right = out.row(token, head);
      T sum = 0;
      for (int c = 0; c < dout.width; ++c) sum += left[c] * right[c];
      dots[head * in.q.tokens + token] = sum;
    }
  });
  const BackwardState<T> state{in, options, dout, sums, dots.data(), gradients};
  const AttentionTasks tasks(sequences, in.q.heads, sorted_rule);
  for (int round = 0; round < options.rounds + (options.samples > 0 ? 1 : 0); ++round)
    parallel_for(tasks.count(), 1, [&](std::int64_t index) {
      const AttentionTask task = tasks[index];
      BackwardTile<T, isa>(state, task, round).add_query_gradients();
      if (round < options.rounds)
        BackwardTile<T, isa>(state, task, round)
            .add_key_gradients(static_cast<int>(task.first - task.begin), static_cast<int>(task.count),
                               nullptr);
    });
  if (options.samples > 0) add_sample_gradients<T, isa>(sequences, state);
}

#define INSTANTIATE(T)                                                                                         \
  template void sorted_attention_forward<T>(Cpu<TERN_ISA>&, const Sequences&, const AttentionInputs<T>&,       \
                                            const SortedOptions&, Heads<T>, const WeightSums<T>&);             \
  template void sorted_attention_backward<T>(Cpu<TERN_ISA>&, const Sequences&, const AttentionInputs<T>&,      \
                                             const SortedOptions&, Heads<const T>, const WeightSums<const T>&, \
                                             Heads<const T>, const AttentionGradients<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
