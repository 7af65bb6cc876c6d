// Exact softmax attention: online softmax forward, weights computed again from the saved log-sum-exp backward.
// Scores are kept in base 2 (queries are packed times scale log2 e), as Dao et al. 2022, arXiv 2205.14135, do.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/attention.h"
#include "kernels/cpu/attention_dropout.h"
#include "kernels/cpu/attention_loops.h"

namespace tern::kernels {
namespace {

/// The running maximum of a row is raised only when a score exceeds it by this much, so weights stay below 2^8.
constexpr int most_excess = 8;

template <class T, Isa isa, bool dropout>
class SoftmaxScore {
 public:
  static constexpr int lanes = Simd<T, isa>::lanes;
  using V = Vector<T, isa>;

  struct Rows {
    Rows(Layout& layout, int queries, int keys)
        : top(layout.take<T>(queries)), totals(layout.take<T>(queries * lanes)), kept(layout, keys) {}
    T* top;     ///< reference maximum of each row, base 2
    T* totals;  ///< [queries, lanes] sums of the weights before dropout
    KeptBytes<isa> kept;
  };

  SoftmaxScore(std::int64_t tokens, const SoftmaxOptions& options)
      : tokens_(tokens),
        scale_(options.scale),
        stream_(options.dropout.stream),
        threshold_(weight_dropout_threshold(options.dropout.rate)),
        keep_factor_(256.0 / (256.0 - threshold_)) {}

  void write_lse(T* lse) { lse_out_ = lse; }
  void clear_unused_lse(const Sequences& sequences, int heads) const {
    for (int head = 0; head < heads; ++head) {
      T* const row = lse_out_ + head * tokens_;
      std::fill(row + sequences.offsets[sequences.count], row + tokens_, T{0});
    }
  }
  /// dots [heads, tokens] = sum_c dout out.
  void read_rows(const T* lse, const T* dots) {
    lse_ = lse;
    dots_ = dots;
  }

  T query_factor() const { return static_cast<T>(scale_ * log2_e); }
  T dq_factor() const { return static_cast<T>(scale_); }
  T dk_factor() const { return static_cast<T>(ln_2); }

  void begin(Rows& rows, int count) const {
    for (int r = 0; r < count; ++r) rows.top[r] = -std::numeric_limits<T>::infinity();
    std::memset(rows.totals, 0, sizeof(T) * static_cast<std::size_t>(count * lanes));
  }

  void weigh(Rows& rows, const ScoreTile<T>& tile) const {
    for (int r = 0; r < tile.rows; ++r) {
      T* scores = tile.scores + r * tile.stride;
      raise_top(rows, tile, r, scores);
      const V top = broadcast<T, isa>(rows.top[tile.row + r]);
      T* totals = rows.totals + (tile.row + r) * lanes;
      V total = load<T, isa>(totals);
      const std::int8_t* flags = draw(rows, tile, r);
      for (int c = 0; c < tile.columns; c += lanes) {
        V weight = power_of_two<T, isa>(load<T, isa>(scores + c) - top);
        total += weight;
        if constexpr (dropout) weight = keep(weight, widen_flags<T, isa>(flags + c));
        store<T, isa>(scores + c, weight);
      }
      store<T, isa>(totals, total);
    }
  }

  T finish(const Rows& rows, const AttentionTask& task, int row) const {
    const T total = sum_lanes<T, isa>(load<T, isa>(rows.totals + row * lanes));
    lse_out_[task.head * tokens_ + task.first + row] =
        (rows.top[row] + std::log2(total)) * static_cast<T>(ln_2);
    return static_cast<T>(keep_factor_) / total;
  }

  void differentiate(Rows& rows, const ScoreTile<T>& tile) const {
    const V factor = broadcast<T, isa>(static_cast<T>(keep_factor_));
    for (int r = 0; r < tile.rows; ++r) {
      T* scores = tile.scores + r * tile.stride;
      T* slopes = tile.slopes + r * tile.stride;
      const std::int64_t place = tile.head * tokens_ + tile.query + r;
      const V lse = broadcast<T, isa>(lse_[place] * static_cast<T>(log2_e)),
              dot = broadcast<T, isa>(dots_[place]);
      const std::int8_t* flags = draw(rows, tile, r);
      for (int c = 0; c < tile.columns; c += lanes) {
        const V weight = power_of_two<T, isa>(load<T, isa>(scores + c) - lse);
        if constexpr (dropout) {
          const auto kept = widen_flags<T, isa>(flags + c);
          store<T, isa>(scores + c, keep(weight * factor, kept));
          store<T, isa>(slopes + c, weight * (keep(load<T, isa>(slopes + c) * factor, kept) - dot));
        } else {
          store<T, isa>(scores + c, weight);
          store<T, isa>(slopes + c, weight * (load<T, isa>(slopes + c) - dot));
        }
      }
    }
  }

 private:
  static V keep(V value, typename Simd<T, isa>::Integers kept) {
    return reinterpret_cast<V>(reinterpret_cast<typename Simd<T, isa>::Integers>(value) & kept);
  }

  /// Flags of row r; drawn for 16 rows at a time.
  const std::int8_t* draw(Rows& rows, const ScoreTile<T>& tile, int r) const {
    if constexpr (!dropout) return nullptr;
    constexpr int group = KeptBytes<isa>::queries;
    if (r % group == 0) {
      rows.kept.draw(stream_, threshold_, tile.sample, tile.head, tile.query + r - tile.begin, tile.rows - r,
                     tile.key - tile.begin, tile.columns);
    }
    return rows.kept.row(r % group);
  }

  /// Fills the columns behind the last key with -infinity, and rescales the row's sums if its maximum is
  /// outgrown.
  void raise_top(Rows& rows, const ScoreTile<T>& tile, int r, T* scores) const {
    const int end = round_up(tile.columns, lanes);
    for (int c = tile.columns; c < end; ++c) scores[c] = -std::numeric_limits<T>::infinity();
    V most = load<T, isa>(scores);
    for (int c = lanes; c < end; c += lanes) most = larger<T, isa>(load<T, isa>(scores + c), most);
    const T found = largest_lane<T, isa>(most);
    T& top = rows.top[tile.row + r];
    if (!(found > top + most_excess)) return;
    const V factor = power_of_two<T, isa>(broadcast<T, isa>(top - found));
    T* totals = rows.totals + (tile.row + r) * lanes;
    T* sums = tile.sums.data + r * tile.sums.stride;
    store<T, isa>(totals, load<T, isa>(totals) * factor);
    for (int c = 0; c < tile.sums_width; c += lanes) store<T, isa>(sums + c, load<T, isa>(sums + c) * factor);
    top = found;
  }

  std::int64_t tokens_;
  double scale_;
  RandomStream stream_;
  std::uint32_t threshold_;
  double keep_factor_;
  T* lse_out_ = nullptr;
  const T* lse_ = nullptr;
  const T* dots_ = nullptr;
};

/// dots[head, token] = sum_c a[token, head, c] b[token, head, c].
template <class T, Isa isa>
void row_dots(const Heads<const T>& a, const Heads<const T>& b, T* dots) {
  constexpr int lanes = Simd<T, isa>::lanes;
  parallel_for(a.tokens, 64, [&](std::int64_t token) {
    for (int head = 0; head < a.heads; ++head) {
      const T* left = a.data + token * a.token_stride + head * a.head_stride;
      const T* right = b.data + token * b.token_stride + head * b.head_stride;
      Vector<T, isa> sums{};
      int c = 0;
      for (; c + lanes <= a.width; c += lanes) sums += load<T, isa>(left + c) * load<T, isa>(right + c);
      T sum = sum_lanes<T, isa>(sums);
      for (; c < a.width; ++c) sum += left[c] * right[c];
      dots[head * a.tokens + token] = sum;
    }
  });
}

}  // namespace

template <class T, Isa isa>
void softmax_attention_forward(Cpu<isa>&, const Sequences& sequences, const AttentionInputs<T>& in,
                               const SoftmaxOptions& options, Heads<T> out, T* lse) {
  const auto run = [&]<bool dropout>(std::bool_constant<dropout>) {
    SoftmaxScore<T, isa, dropout> score(in.q.tokens, options);
    score.write_lse(lse);
    score.clear_unused_lse(sequences, in.q.heads);
    attention_forward<T, isa>(sequences, in, score, out);
  };
  weight_dropout_threshold(options.dropout.rate) == 0 ? run(std::false_type{}) : run(std::true_type{});
}

template <class T, Isa isa>
void softmax_attention_backward(Cpu<isa>&, const Sequences& sequences, const AttentionInputs<T>& in,
                                const SoftmaxOptions& options, const SoftmaxResult<T>& result,
                                Heads<const T> dout, const AttentionGradients<T>& gradients) {
  const Buffer<T> dots(in.q.heads * in.q.tokens);
  row_dots<T, isa>(dout, result.out, dots.data());
  const auto run = [&]<bool dropout>(std::bool_constant<dropout>) {
    SoftmaxScore<T, isa, dropout> score(in.q.tokens, options);
    score.read_rows(result.lse, dots.data());
    attention_backward<T, isa>(sequences, BackwardArguments<T>{in, dout, gradients}, score);
  };
  weight_dropout_threshold(options.dropout.rate) == 0 ? run(std::false_type{}) : run(std::true_type{});
}

#define INSTANTIATE(T)                                                                                        \
  template void softmax_attention_forward<T>(Cpu<TERN_ISA>&, const Sequences&, const AttentionInputs<T>&,     \
                                             const SoftmaxOptions&, Heads<T>, T*);                            \
  template void softmax_attention_backward<T>(Cpu<TERN_ISA>&, const Sequences&, const AttentionInputs<T>&,    \
                                              const SoftmaxOptions&, const SoftmaxResult<T>&, Heads<const T>, \
                                              const AttentionGradients<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
