// Values in double: what references compute with, and fixed inputs drawn from Philox.
#pragma once

#include <cmath>
#include <functional>
#include <vector>

#include "tern/random.h"
#include "tern/sequence_layout.h"
#include "tern/tensor.h"

namespace tern::test {

/// Row-major values and their shape.
struct Array {
  Shape shape;
  std::vector<double> values;

  Array() = default;
  explicit Array(const Shape& extents, double value = 0)
      : shape(extents), values(static_cast<std::size_t>(extents.count()), value) {}
  std::int64_t count() const { return static_cast<std::int64_t>(values.size()); }
  double operator[](std::int64_t i) const { return values.at(static_cast<std::size_t>(i)); }
  double& operator[](std::int64_t i) { return values.at(static_cast<std::size_t>(i)); }
  /// Extent of `axis`; negative axes count from the end.
  std::int64_t size(int axis) const { return shape[axis < 0 ? axis + shape.rank() : axis]; }
  /// Entry (i, j) of a matrix.
  double at(std::int64_t i, std::int64_t j) const { return (*this)[i * size(1) + j]; }
  double& at(std::int64_t i, std::int64_t j) { return (*this)[i * size(1) + j]; }
};

inline Array array_of(const Tensor& x) {
  Array out(x.shape());
  out.values = x.to_vector<double>();
  return out;
}

inline Tensor tensor_of(const Array& x, DType dtype, Device device = {}) {
  const Tensor host = empty(x.shape, dtype);
  copy(from_vector(x.values, x.shape), host);
  if (device == Device{}) return host;
  const Tensor out = empty(x.shape, dtype, device);
  copy(host, out);
  return out;
}

inline RandomStream test_stream(std::uint64_t seed, std::string_view path = "tests") {
  static constexpr std::uint32_t step = 3;
  return {stream_key(seed, path), &step};
}

/// Entries in (low, high), by `seed` alone.
inline Array uniform_array(const Shape& shape, std::uint64_t seed, double low = -1, double high = 1) {
  Array out(shape);
  std::vector<float> drawn(out.values.size());
  fill_uniform(test_stream(seed), 0, 0, drawn);
  for (std::size_t i = 0; i < drawn.size(); ++i)
    out.values[i] = low + (high - low) * static_cast<double>(drawn[i]);
  return out;
}

inline Array normal_array(const Shape& shape, std::uint64_t seed) {
  Array out(shape);
  std::vector<float> drawn(out.values.size());
  fill_normal(test_stream(seed), 0, 0, drawn);
  std::copy(drawn.begin(), drawn.end(), out.values.begin());
  return out;
}

/// Distinct entries of both signs, at least 0.02 from 0 and from each other: for functions with kinks.
inline Array spread_array(const Shape& shape, std::uint64_t seed) {
  Array out = uniform_array(shape, seed);
  std::vector<std::size_t> order(out.values.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return out.values[a] < out.values[b]; });
  const double half = 0.5 * static_cast<double>(order.size());
  for (std::size_t rank = 0; rank < order.size(); ++rank)
    out.values[order[rank]] = 0.05 * (static_cast<double>(rank) - half + 0.3);
  return out;
}

inline Array mapped(const Array& x, const std::function<double(double)>& f) {
  Array out = x;
  for (double& value : out.values) value = f(value);
  return out;
}

/// Sequences of the given lengths; token i of a sequence stands at position i * gap. Samples are 40, 41, ...
inline SequenceLayout layout_of(const std::vector<int>& lengths, std::int64_t padded_length, int gap = 1) {
  std::vector<std::int32_t> offsets{0}, position;
  std::vector<std::int64_t> sample;
  for (const int length : lengths) {
    for (int i = 0; i < length; ++i) position.push_back(i * gap);
    offsets.push_back(offsets.back() + length);
    sample.push_back(40 + static_cast<std::int64_t>(sample.size()));
  }
  return make_layout(offsets, position, sample, padded_length);
}

}  // namespace tern::test
