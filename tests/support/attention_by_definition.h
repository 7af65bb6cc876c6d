// Attention by its definition, in double with whole matrices of weights.
#pragma once

#include <numbers>

#include "support/array.h"
#include "tern/bernoulli.h"
#include "tern/ops.h"

namespace tern::test {

/// The row of weights of a query from its products with all keys of its sequence.
using Weights = std::function<std::vector<double>(const std::vector<double>& products)>;

/// What dropout multiplies the weight of query i and key j with, both counted from the first token of their
/// sequence.
using WeightFactor =
    std::function<double(std::int64_t sample, std::int64_t head, std::int64_t i, std::int64_t j)>;

/// By the rule of kernels/attention.h: the weights of {i, i + 1, i + 8, i + 9} x {j, j + 1, j + 8, j + 9} share
/// a block of the stream, a byte each.
inline WeightFactor weight_dropout(const DropoutOptions& options) {
  const auto threshold = static_cast<std::uint32_t>(std::lround(options.rate * 256));
  return [=](std::int64_t sample, std::int64_t head, std::int64_t i, std::int64_t j) {
    const auto patch = [](std::int64_t token) {
      return static_cast<std::uint64_t>(token / 16 * 4 + token % 8 / 2);
    };
    const std::uint64_t block = static_cast<std::uint64_t>(head) << 48 | patch(i) << 24 | patch(j);
    const std::uint32_t word = options.stream.words(sample, block).word[i % 2 * 2 + j % 2];
    const std::int64_t byte = i % 16 / 8 * 2 + j % 16 / 8;
    return (word >> (8 * byte) & 0xFF) < threshold ? 0 : 256.0 / (256.0 - threshold);
  };
}

/// out_i = sum over the keys j of i's sequence of factor_ij weight_ij v_j; q, k, v [tokens, heads, width].
inline Array attended(const std::vector<Array>& qkv, const SequenceLayout& layout, const Weights& weights,
                      const WeightFactor& factor = {}) {
  const Array &q = qkv.at(0), &k = qkv.at(1), &v = qkv.at(2);
  const std::int64_t heads = q.size(1), width = q.size(2);
  const auto offsets = layout.offsets.to_vector<std::int32_t>();
  const auto sample = layout.sample.to_vector<std::int64_t>();
  Array out(v.shape);
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (std::int64_t i = offsets[s]; i < offsets[s + 1]; ++i)
      for (std::int64_t h = 0; h < heads; ++h) {
        std::vector<double> products;
        for (std::int64_t j = offsets[s]; j < offsets[s + 1]; ++j) {
          products.push_back(0);
          for (std::int64_t c = 0; c < width; ++c)
            products.back() += q[(i * heads + h) * width + c] * k[(j * heads + h) * width + c];
        }
        std::vector<double> row = weights(products);
        for (std::int64_t j = 0; factor && j < std::ssize(row); ++j)
          row[static_cast<std::size_t>(j)] *= factor(sample[s], h, i - offsets[s], j);
        for (std::int64_t j = offsets[s]; j < offsets[s + 1]; ++j)
          for (std::int64_t c = 0; c < width; ++c)
            out[(i * heads + h) * width + c] +=
                row[static_cast<std::size_t>(j - offsets[s])] * v[(j * heads + h) * width + c];
      }
  return out;
}

inline Weights softmax_weights(double scale) {
  return [scale](std::vector<double> row) {
    double largest = -INFINITY, total = 0;
    for (const double s : row) largest = std::max(largest, scale * s);
    for (double& s : row) total += s = std::exp(scale * s - largest);
    for (double& s : row) s /= total;
    return row;
  };
}

constexpr double cosine_limit = 1 - 1e-6;

/// (1 - arccos(s) / pi)^bits.
inline double collision_probability(double s, int bits) {
  return std::pow(1 - std::acos(std::clamp(s, -cosine_limit, cosine_limit)) / std::numbers::pi, bits);
}
inline Weights bernoulli_weights(int bits) {
  return [bits](std::vector<double> row) {
    for (double& s : row) s = collision_probability(s, bits);
    return row;
  };
}
/// What a pair's product gets from dy_i . v_j: bits / 2 * p as published, or dp / ds.
inline double collision_slope(double s, int bits, BernoulliGradient gradient) {
  s = std::clamp(s, -cosine_limit, cosine_limit);
  if (gradient == BernoulliGradient::surrogate) return bits / 2.0 * collision_probability(s, bits);
  return bits * collision_probability(s, bits - 1) / (std::numbers::pi * std::sqrt(1 - s * s));
}

/// Gradients of q, k and v of out_i = sum p(q_i . k_j) v_j, with `slope` in the place of dp / ds.
inline std::vector<Array> bernoulli_gradients(const std::vector<Array>& qkv, const Array& dy,
                                              const SequenceLayout& layout, int bits,
                                              BernoulliGradient gradient) {
  const Array &q = qkv.at(0), &k = qkv.at(1), &v = qkv.at(2);
  const std::int64_t heads = q.size(1), width = q.size(2);
  const auto offsets = layout.offsets.to_vector<std::int32_t>();
  std::vector<Array> out{Array(q.shape), Array(q.shape), Array(q.shape)};
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (std::int64_t i = offsets[s]; i < offsets[s + 1]; ++i)
      for (std::int64_t j = offsets[s]; j < offsets[s + 1]; ++j)
        for (std::int64_t h = 0; h < heads; ++h) {
          const std::int64_t a = (i * heads + h) * width, b = (j * heads + h) * width;
          double cosine = 0, dot = 0;
          for (std::int64_t c = 0; c < width; ++c) cosine += q[a + c] * k[b + c], dot += dy[a + c] * v[b + c];
          const double weight = dot * collision_slope(cosine, bits, gradient),
                       p = collision_probability(cosine, bits);
          for (std::int64_t c = 0; c < width; ++c) {
            out[0][a + c] += weight * k[b + c];
            out[1][b + c] += weight * q[a + c];
            out[2][b + c] += p * dy[a + c];
          }
        }
  return out;
}

/// Rows of length one.
inline Array unit_array(Array x) {
  const std::int64_t width = x.size(-1);
  for (std::int64_t r = 0; r < x.count() / width; ++r) {
    double square = 0;
    for (std::int64_t c = 0; c < width; ++c) square += x[r * width + c] * x[r * width + c];
    for (std::int64_t c = 0; c < width; ++c) x[r * width + c] /= std::max(std::sqrt(square), 1e-12);
  }
  return x;
}
/// The gradient of x where that of y = x / |x| is dy: (dy - y (y . dy)) / |x|, 0 where x is 0.
inline Array through_scaling(const Array& x, const Array& dy) {
  const Array y = unit_array(x);
  const std::int64_t width = x.size(-1);
  Array dx(x.shape);
  for (std::int64_t first = 0; first < x.count(); first += width) {
    double square = 0, dot = 0;
    for (std::int64_t c = first; c < first + width; ++c) square += x[c] * x[c], dot += y[c] * dy[c];
    for (std::int64_t c = first; c < first + width && square > 0; ++c)
      dx[c] = (dy[c] - y[c] * dot) / std::sqrt(square);
  }
  return dx;
}

}  // namespace tern::test
