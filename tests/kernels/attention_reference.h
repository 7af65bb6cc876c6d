// Attention by its definition, in double with whole matrices, and ragged batches to try it on.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numbers>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/attention.h"

namespace tern::test {

/// A ragged batch: [tokens, 3, heads, width] product with two elements of slack behind each head, so that no
/// stride equals a width.
template <class T>
struct RaggedBatch {
  int heads, width;
  std::int64_t longest = 0;
  std::int64_t unused = 0;  ///< rows behind the last sequence
  std::vector<std::int32_t> offsets{0}, position, order;
  std::vector<std::int64_t> sample;
  std::vector<T> product;

  RaggedBatch(const std::vector<int>& lengths, int heads_, int width_, int first_position = 0, int gap = 1,
              int unused_ = 0)
      : heads(heads_), width(width_), unused(unused_) {
    for (const int length : lengths) {
      sample.push_back(1000 + 7 * static_cast<std::int64_t>(sample.size()));
      for (int i = 0; i < length; ++i) position.push_back(first_position + i * gap + (gap > 1 ? i % 2 : 0));
      offsets.push_back(offsets.back() + length);
    }
    set_order();
    product.resize(static_cast<std::size_t>(tokens() * token_stride()));
    fill(product, 11);
  }
  std::int64_t tokens() const { return offsets.back() + unused; }
  std::int64_t head_stride() const { return width + 2; }
  std::int64_t token_stride() const { return 3 * heads * head_stride(); }
  std::int64_t sequences() const { return static_cast<std::int64_t>(sample.size()); }
  /// Of the sequences that `offsets` describes.
  void set_order() {
    const auto length = [&](std::int32_t s) {
      return offsets[static_cast<std::size_t>(s) + 1] - offsets[static_cast<std::size_t>(s)];
    };
    order.clear();
    for (std::int32_t s = 0; s < sequences(); ++s) order.push_back(s);
    std::ranges::stable_sort(order, std::greater{}, length);
    longest = order.empty() ? 0 : length(order.front());
  }
  kernels::Sequences layout() const {
    return {sequences(), offsets.data(), position.data(), sample.data(), order.data(), tokens(), longest};
  }

  /// View of part 0 (q), 1 (k) or 2 (v) of a product.
  template <class U>
  kernels::Heads<U> view(U* data, int part) const {
    return {data + part * heads * head_stride(), tokens(), heads, width, token_stride(), head_stride()};
  }
  kernels::AttentionInputs<T> inputs() const {
    return {view<const T>(product.data(), 0), view<const T>(product.data(), 1),
            view<const T>(product.data(), 2)};
  }
  /// Contiguous [tokens, heads, width].
  template <class U>
  kernels::Heads<U> rows(U* data) const {
    return {data, tokens(), heads, width, heads * static_cast<std::int64_t>(width), width};
  }
  std::size_t elements() const { return static_cast<std::size_t>(tokens() * heads * width); }

  void scale_rows_to_unit() {
    for (int part = 0; part < 2; ++part) {
      const auto rows = view<T>(product.data(), part);
      for (std::int64_t t = 0; t < tokens(); ++t) {
        for (int h = 0; h < heads; ++h) {
          double norm = 0;
          for (int c = 0; c < width; ++c) norm += double(rows.row(t, h)[c]) * double(rows.row(t, h)[c]);
          for (int c = 0; c < width; ++c)
            rows.row(t, h)[c] = static_cast<T>(rows.row(t, h)[c] / std::sqrt(norm));
        }
      }
    }
  }

  /// Fixed values in (-1, 1).
  static void fill(std::vector<T>& values, std::uint32_t seed) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto words = philox({{static_cast<std::uint32_t>(i), 0, 0, 0}}, {seed, 5});
      values[i] = static_cast<T>(2 * to_uniform(words.word[0]) - 1);
    }
  }
};

/// A mechanism on one sequence and head: out_i = sum_j weight_ij v_j, and how a row's scores move the loss.
struct Matrices {
  std::vector<std::vector<double>> weight;  ///< [queries, keys]
  std::vector<double> lse;                  ///< softmax only
  /// dscore[j] of row i from the row's slopes.
  std::function<std::vector<double>(std::size_t i, const std::vector<double>& slopes)> gradient;
};

struct Expected {
  std::vector<double> out, lse, dq, dk, dv;  ///< [tokens, heads, width], lse [heads, tokens]
};

/// Query i and key j of a sequence: 4 x 4 weights {i, i + 1, i + 8, i + 9} x {j, j + 1, j + 8, j + 9} share a
/// block; the byte follows from the parities and from which half of 16 the tokens lie in.
inline bool is_kept(const kernels::AttentionDropout& dropout, std::int64_t sample, int head, std::int64_t i,
                    std::int64_t j) {
  const auto patch = [](std::int64_t token) {
    return static_cast<std::uint64_t>(token / 16 * 4 + token % 8 / 2);
  };
  const std::uint64_t block = (static_cast<std::uint64_t>(head) << 48) + (patch(i) << 24) + patch(j);
  const std::uint32_t word = dropout.stream.words(sample, block).word[i % 2 * 2 + j % 2];
  const std::int64_t byte = i % 16 / 8 * 2 + j % 16 / 8;
  return (word >> (8 * byte) & 0xFF) >= static_cast<std::uint32_t>(std::lround(dropout.rate * 256.0));
}

using Scores = std::vector<std::vector<double>>;
/// What a mechanism makes of the products q_i . k_j of one sequence and head.
using Mechanism = std::function<Matrices(const Scores& products, std::int64_t sequence, int head)>;

template <class T>
Expected reference(const RaggedBatch<T>& batch, const std::vector<T>& dout, double gradient_scale,
                   const Mechanism& mechanism) {
  const auto in = batch.inputs();
  const auto g = batch.template rows<const T>(dout.data());
  Expected expected;
  for (auto* values : {&expected.out, &expected.dq, &expected.dk, &expected.dv})
    values->assign(batch.elements(), 0);
  expected.lse.assign(static_cast<std::size_t>(batch.tokens() * batch.heads), 0);
  const auto dot = [&](const T* a, const T* b) {
    double sum = 0;
    for (int c = 0; c < batch.width; ++c) sum += double(a[c]) * double(b[c]);
    return sum;
  };
  const auto add = [&](std::vector<double>& to, std::int64_t token, int head, double factor, const T* row) {
    double* target = batch.template rows<double>(to.data()).row(token, head);
    for (int c = 0; c < batch.width; ++c) target[c] += factor * double(row[c]);
  };
  for (std::int64_t s = 0; s < batch.sequences(); ++s) {
    const std::int64_t begin = batch.offsets[static_cast<std::size_t>(s)];
    const auto n = static_cast<std::size_t>(batch.offsets[static_cast<std::size_t>(s) + 1] - begin);
    for (int h = 0; h < batch.heads; ++h) {
      const auto token = [&](std::size_t i) { return begin + static_cast<std::int64_t>(i); };
      Scores products(n, std::vector<double>(n));
      for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t j = 0; j < n; ++j) products[i][j] = dot(in.q.row(token(i), h), in.k.row(token(j), h));
      }
      const Matrices made = mechanism(products, s, h);
      std::vector<double> slopes(n);
      for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t j = 0; j < n; ++j) slopes[j] = dot(g.row(token(i), h), in.v.row(token(j), h));
        const std::vector<double> dscore = made.gradient(i, slopes);
        for (std::size_t j = 0; j < n; ++j) {
          add(expected.out, token(i), h, made.weight[i][j], in.v.row(token(j), h));
          add(expected.dv, token(j), h, made.weight[i][j], g.row(token(i), h));
          add(expected.dq, token(i), h, gradient_scale * dscore[j], in.k.row(token(j), h));
          add(expected.dk, token(j), h, gradient_scale * dscore[j], in.q.row(token(i), h));
        }
        if (!made.lse.empty())
          expected.lse[static_cast<std::size_t>(h * batch.tokens() + token(i))] = made.lse[i];
      }
    }
  }
  return expected;
}

/// softmax(scale q k^T) with dropout; the gradient from dP and P alone.
template <class T>
Mechanism softmax_mechanism(const RaggedBatch<T>& batch, const kernels::SoftmaxOptions& options) {
  return [&batch, options](const Scores& products, std::int64_t sequence, int head) {
    const std::size_t n = products.size();
    const double threshold = std::round(options.dropout.rate * 256.0);
    Scores p = products, factor(n, std::vector<double>(n, 1));
    Matrices made{.weight = products, .lse = std::vector<double>(n), .gradient = nullptr};
    for (std::size_t i = 0; i < n; ++i) {
      const double top =
          options.scale * (options.scale > 0 ? std::ranges::max(products[i]) : std::ranges::min(products[i]));
      double sum = 0;
      for (std::size_t j = 0; j < n; ++j) sum += p[i][j] = std::exp(options.scale * products[i][j] - top);
      made.lse[i] = top + std::log(sum);
      for (std::size_t j = 0; j < n; ++j) {
        p[i][j] /= sum;
        if (threshold > 0) {
          const bool kept = is_kept(options.dropout, batch.sample[static_cast<std::size_t>(sequence)], head,
                                    static_cast<std::int64_t>(i), static_cast<std::int64_t>(j));
          factor[i][j] = kept ? 256 / (256 - threshold) : 0;
        }
        made.weight[i][j] = p[i][j] * factor[i][j];
      }
    }
    made.gradient = [p, factor](std::size_t i, const std::vector<double>& slopes) {
      double mean = 0;
      for (std::size_t j = 0; j < slopes.size(); ++j) mean += p[i][j] * factor[i][j] * slopes[j];
      std::vector<double> dscore(slopes.size());
      for (std::size_t j = 0; j < slopes.size(); ++j) dscore[j] = p[i][j] * (factor[i][j] * slopes[j] - mean);
      return dscore;
    };
    return made;
  };
}

/// (1 - arccos(s) / pi)^bits with s clamped to +-limit.
inline Mechanism bernoulli_mechanism(const kernels::BernoulliOptions& options, double limit) {
  return [=](const Scores& products, std::int64_t, int) {
    Scores weight = products, derivative = products;
    for (std::size_t i = 0; i < products.size(); ++i) {
      for (std::size_t j = 0; j < products.size(); ++j) {
        const double s = std::clamp(products[i][j], -limit, limit), base = 1 - std::acos(s) / std::numbers::pi;
        weight[i][j] = std::pow(base, options.bits);
        derivative[i][j] = options.gradient == BernoulliGradient::surrogate
                               ? options.bits / 2.0 * weight[i][j]
                               : options.bits * std::pow(base, options.bits - 1) /
                                     (std::numbers::pi * std::sqrt((1 - s) * (1 + s)));
      }
    }
    return Matrices{.weight = weight,
                    .lse = {},
                    .gradient = [derivative](std::size_t i, const std::vector<double>& slopes) {
                      std::vector<double> dscore(slopes.size());
                      for (std::size_t j = 0; j < slopes.size(); ++j) dscore[j] = derivative[i][j] * slopes[j];
                      return dscore;
                    }};
  };
}

/// Every value within `tolerance` times the largest expected magnitude, or nearly subnormal in float; no values
/// at all is a failure.
template <class T>
void expect_close(const char* name, const std::vector<T>& actual, const std::vector<double>& expected,
                  double tolerance) {
  ASSERT_FALSE(expected.empty()) << name;
  ASSERT_EQ(actual.size(), expected.size()) << name;
  constexpr double smallest = 1e-36;
  double scale = 0, worst = 0;
  for (const double value : expected) scale = std::max(scale, std::abs(value));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double error = std::abs(double(actual[i]) - expected[i]);
    worst = error <= worst ? worst : error;  // NaN counts as the worst
  }
  EXPECT_LE(worst, tolerance * scale + smallest) << name << ": largest expected value " << scale;
}

}  // namespace tern::test
