// Ops of attention by landmarks against their definitions (Xiong et al. 2021, arXiv 2102.03902, section 3).
#include <algorithm>

#include "support/devices.h"
#include "support/op_case.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

/// Sequences that are empty, shorter than the landmarks, as long, a little longer, a multiple of them and long.
const std::vector<int> lengths{1, 0, 5, 6, 7, 12, 43};
constexpr std::int64_t landmarks = 6, heads = 2;

SequenceLayout ragged() { return layout_of(lengths, 64); }

/// Calls body(sequence, its first token, its length).
template <class Body>
void for_each_sequence(const Body& body) {
  std::int64_t first = 0;
  for (std::size_t s = 0; s < lengths.size(); first += lengths[s++])
    body(static_cast<std::int64_t>(s), first, static_cast<std::int64_t>(lengths[s]));
}

/// y = softmax of the entries x[index(0)], x[index(1)], ...
template <class Index>
void softmax_of(const Array& x, std::int64_t count, const Index& index, Array& y) {
  double largest = -INFINITY, total = 0;
  for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, x[index(i)]);
  for (std::int64_t i = 0; i < count; ++i) total += std::exp(x[index(i)] - largest);
  for (std::int64_t i = 0; i < count; ++i) y[index(i)] = std::exp(x[index(i)] - largest) / total;
}

Array means(const Array& x) {
  const std::int64_t width = x.size(2);
  Array out({std::ssize(lengths), heads, landmarks, width});
  for_each_sequence([&](std::int64_t s, std::int64_t first, std::int64_t n) {
    const std::int64_t used = std::min(n, landmarks);
    for (std::int64_t i = 0; i < used; ++i)
      for (std::int64_t t = i * n / used; t < (i + 1) * n / used; ++t)
        for (std::int64_t h = 0; h < heads; ++h)
          for (std::int64_t c = 0; c < width; ++c)
            out[((s * heads + h) * landmarks + i) * width + c] +=
                x[((first + t) * heads + h) * width + c] /
                static_cast<double>((i + 1) * n / used - i * n / used);
  });
  return out;
}

Array over_landmarks(const Array& x) {
  Array y(x.shape);
  for_each_sequence([&](std::int64_t, std::int64_t first, std::int64_t n) {
    for (std::int64_t row = first * heads; row < (first + n) * heads; ++row)
      softmax_of(
          x, std::min(n, landmarks), [&](std::int64_t i) { return row * landmarks + i; }, y);
  });
  return y;
}

Array between_landmarks(const Array& x) {
  Array y(x.shape);
  for_each_sequence([&](std::int64_t s, std::int64_t, std::int64_t n) {
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t i = 0; i < landmarks; ++i) {
        const std::int64_t row = ((s * heads + h) * landmarks + i) * landmarks;
        if (n <= landmarks)
          y[row + i] = 1;
        else
          softmax_of(
              x, landmarks, [&](std::int64_t j) { return row + j; }, y);
      }
  });
  return y;
}

Array over_tokens(const Array& x) {
  Array y(x.shape);
  for_each_sequence([&](std::int64_t, std::int64_t first, std::int64_t n) {
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t i = 0; i < landmarks; ++i) {
        const auto index = [&](std::int64_t t) { return ((first + t) * heads + h) * landmarks + i; };
        if (n > landmarks)
          softmax_of(x, n, index, y);
        else if (i < n)
          y[index(i)] = 1;
      }
  });
  return y;
}

/// A softmax op on scores of `shape`.
OpCase softmax_case(const char* name, const Shape& shape, Tensor (*op)(const Tensor&, const SequenceLayout&),
                    Array (*reference)(const Array&)) {
  const SequenceLayout layout = ragged();
  return {.name = name,
          .inputs = {mapped(normal_array(shape, 190), [](double v) { return 3 * v; })},
          .function = one_result([=](auto x) { return op(x[0], on(x[0], layout)); }),
          .reference = one_array([=](const Arrays& x) { return reference(x[0]); }),
          .reduction_length = 43};
}

TEST(Landmarks, segment_means_of_ragged_sequences) {
  std::vector<OpCase> cases;
  for (const std::int64_t width : {1, 5, 8, 64})
    cases.push_back(
        {.name = format_text("segment_means, width {}", width),
         .inputs = {normal_array({ragged().tokens(), heads, width}, 191)},
         .function = one_result([](auto x) { return segment_means(x[0], on(x[0], ragged()), landmarks); }),
         .reference = one_array([](const Arrays& x) { return means(x[0]); }),
         .reduction_length = 8});
  check(cases);
}

TEST(Landmarks, softmaxes_of_ragged_sequences) {
  const Shape rows{ragged().tokens(), heads, landmarks},
      matrices{ragged().sequences(), heads, landmarks, landmarks};
  check({softmax_case("over landmarks", rows, softmax_over_landmarks, over_landmarks),
         softmax_case("between landmarks", matrices, softmax_between_landmarks, between_landmarks),
         softmax_case("over tokens", rows, softmax_over_tokens, over_tokens)});
}

/// Columns that fill packs, and more tokens than one chunk.
TEST(Landmarks, softmax_over_many_tokens) {
  for (const std::int64_t width : {64, 72, 3}) {
    const SequenceLayout layout = layout_of({2500, 80}, 4096);
    const Array x = normal_array({layout.tokens(), 1, width}, 192);
    Array expected(x.shape);
    for (std::int64_t i = 0; i < width; ++i)
      for (const auto& [first, n] : {std::pair{0, 2500}, std::pair{2500, 80}})
        softmax_of(
            x, n, [&](std::int64_t t) { return (first + t) * width + i; }, expected);
    for (const Device device : test_devices()) {
      const Tensor rows = tensor_of(x, DType::float64, device);
      EXPECT_EQ(
          difference(array_of(softmax_over_tokens(rows, on(rows, layout))).values, expected.values, 1e-13), "");
    }
  }
}

/// Rows of unused capacity become zero and get no gradient.
TEST(Landmarks, unused_capacity_is_zero) {
  const SequenceLayout roomy =
      make_layout(arrange_sequences({0, 3, 12}, {0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8}, {0, 1}, 64, 20));
  for (const auto op : {softmax_over_landmarks, softmax_over_tokens}) {
    const Tensor x = leaf(full({20, heads, 4}, 0.5, DType::float64)), y = op(x, roomy);
    EXPECT_EQ(array_of(slice(y, 0, 12, 8)).values, std::vector<double>(8 * heads * 4, 0));
    backward(sum(square(y)));
    EXPECT_EQ(array_of(gradient_of(x).narrowed(0, 12, 8)).values, std::vector<double>(8 * heads * 4, 0));
  }
  const Tensor x = leaf(full({20, heads, 5}, 0.5, DType::float64));
  backward(sum(segment_means(x, roomy, 4)));
  EXPECT_EQ(array_of(gradient_of(x).narrowed(0, 12, 8)).values, std::vector<double>(8 * heads * 5, 0));
}

/// [batch, m, m] times the same.
Array product(const Array& a, const Array& b) {
  const std::int64_t m = a.size(2);
  Array out(a.shape);
  for (std::int64_t s = 0; s < a.size(0); ++s)
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t k = 0; k < m; ++k)
        for (std::int64_t j = 0; j < m; ++j)
          out[(s * m + i) * m + j] += a[(s * m + i) * m + k] * b[(s * m + k) * m + j];
  return out;
}
/// factor I - x.
Array identity_less(double factor, const Array& x) {
  const std::int64_t m = x.size(2);
  Array out(x.shape);
  for (std::int64_t i = 0; i < x.count(); ++i) out[i] = (i % (m * m) % (m + 1) == 0 ? factor : 0) - x[i];
  return out;
}

TEST(Landmarks, iterated_inverse_follows_its_recursion) {
  const auto reference = [](const Arrays& x, int iterations) {
    Array z = x[1];
    for (int i = 0; i < iterations; ++i) {
      const Array y = product(x[0], z);
      const Array inner = identity_less(15, product(y, identity_less(7, y)));
      z = mapped(product(z, identity_less(13, product(y, inner))), [](double v) { return v / 4; });
    }
    return z;
  };
  std::vector<OpCase> cases;
  for (const int iterations : {1, 3})
    cases.push_back({.name = format_text("iterated_inverse, {} steps", iterations),
                     .inputs = {mapped(normal_array({2, 5, 5}, 193), [](double v) { return v / 4; }),
                                mapped(normal_array({2, 5, 5}, 194), [](double v) { return v / 4; })},
                     .function = one_result([=](auto x) { return iterated_inverse(x[0], x[1], iterations); }),
                     .reference = one_array([=](const Arrays& x) { return reference(x, iterations); }),
                     .has_bfloat16 = false,
                     .reduction_length = 5});
  check(cases);
}

TEST(Landmarks, iterated_inverse_converges) {
  const std::int64_t m = 8;
  Array x({1, m, m}), start({1, m, m});
  const Array noise = normal_array({1, m, m}, 195);
  for (std::int64_t i = 0; i < m * m; ++i) x[i] = 0.1 * noise[i] + (i % (m + 1) == 0 ? 1 : 0);
  for (std::int64_t i = 0; i < m * m; ++i) start[i] = x[i % m * m + i / m] / 4;
  const Array z = array_of(iterated_inverse(tensor_of(x, DType::float64), tensor_of(start, DType::float64), 8));
  const Array off = identity_less(1, product(x, z));
  for (const double v : off.values) EXPECT_NEAR(v, 0, 1e-12);
}

TEST(Landmarks, wrong_shapes_are_refused) {
  const SequenceLayout layout = layout_of({4}, 8);
  const Tensor rows = zeros({4, 2, 3}, DType::float32), few = zeros({3, 2, 3}, DType::float32),
               matrices = zeros({1, 2, 3, 4}, DType::float32);
  EXPECT_TRUE(mentions(thrown_error([&] { segment_means(few, layout, 2); }), "segment_means"));
  EXPECT_TRUE(mentions(thrown_error([&] { segment_means(rows, layout, 0); }), "landmarks"));
  EXPECT_TRUE(mentions(thrown_error([&] { softmax_over_landmarks(few, layout); }), "softmax_over_landmarks"));
  EXPECT_TRUE(mentions(thrown_error([&] { softmax_over_tokens(few, layout); }), "softmax_over_tokens"));
  EXPECT_TRUE(
      mentions(thrown_error([&] { softmax_between_landmarks(matrices, layout); }), "landmarks, landmarks"));
  EXPECT_TRUE(mentions(thrown_error([&] { iterated_inverse(matrices, matrices, 2); }), "square"));
}

}  // namespace
}  // namespace tern::test
