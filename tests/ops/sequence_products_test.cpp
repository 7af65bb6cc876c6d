#include <array>
#include <tuple>

#include "support/devices.h"
#include "support/op_case.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

/// Calls body(sequence, token, head) for all tokens of the layout's sequences.
template <class Body>
void for_each_row(const SequenceLayout& layout, std::int64_t heads, const Body& body) {
  const auto offsets = layout.offsets.to_vector<std::int32_t>();
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (std::int64_t t = offsets[s]; t < offsets[s + 1]; ++t)
      for (std::int64_t h = 0; h < heads; ++h) body(static_cast<std::int64_t>(s), t, h);
}

Array summed_products(const Arrays& in, const SequenceLayout& layout) {
  const Array &a = in[0], &b = in[1];
  const std::int64_t heads = a.size(1), r = a.size(2), d = b.size(2);
  Array out({layout.sequences(), heads, r, d});
  for_each_row(layout, heads, [&](std::int64_t s, std::int64_t t, std::int64_t h) {
    for (std::int64_t i = 0; i < r; ++i)
      for (std::int64_t j = 0; j < d; ++j)
        out[((s * heads + h) * r + i) * d + j] += a[(t * heads + h) * r + i] * b[(t * heads + h) * d + j];
  });
  return out;
}

Array multiplied_rows(const Arrays& in, const SequenceLayout& layout, bool transpose) {
  const Array &x = in[0], &m = in[1];
  const std::int64_t heads = x.size(1), depth = x.size(2), width = m.size(transpose ? 2 : 3);
  Array out({x.size(0), heads, width});
  for_each_row(layout, heads, [&](std::int64_t s, std::int64_t t, std::int64_t h) {
    for (std::int64_t i = 0; i < depth; ++i)
      for (std::int64_t j = 0; j < width; ++j)
        out[(t * heads + h) * width + j] +=
            x[(t * heads + h) * depth + i] *
            m[(s * heads + h) * depth * width + (transpose ? j * depth + i : i * width + j)];
  });
  return out;
}

/// Attention by its definition: the weights of all pairs.
Array attended_by_features(const Arrays& in, const SequenceLayout& layout, double epsilon) {
  const Array &q = in[0], &k = in[1], &v = in[2];
  const std::int64_t heads = q.size(1), r = q.size(2), d = v.size(2);
  const auto offsets = layout.offsets.to_vector<std::int32_t>();
  Array out(v.shape);
  for_each_row(layout, heads, [&](std::int64_t s, std::int64_t i, std::int64_t h) {
    double total = epsilon;
    std::vector<double> sums(static_cast<std::size_t>(d));
    for (std::int64_t j = offsets[static_cast<std::size_t>(s)]; j < offsets[static_cast<std::size_t>(s) + 1];
         ++j) {
      double weight = 0;
      for (std::int64_t c = 0; c < r; ++c) weight += q[(i * heads + h) * r + c] * k[(j * heads + h) * r + c];
      total += weight;
      for (std::int64_t c = 0; c < d; ++c)
        sums[static_cast<std::size_t>(c)] += weight * v[(j * heads + h) * d + c];
    }
    for (std::int64_t c = 0; c < d; ++c)
      out[(i * heads + h) * d + c] = sums[static_cast<std::size_t>(c)] / total;
  });
  return out;
}

struct Extents {
  std::vector<int> lengths;
  std::int64_t heads, rows, columns;
};
/// One token, empty sequences, lengths around the tiles, widths that fill tiles, end inside them and fit no
/// pack.
const std::vector<Extents> extents{{{1}, 1, 1, 1},         {{3, 0, 2}, 2, 3, 5}, {{35, 130, 1}, 2, 8, 16},
                                   {{65, 127}, 1, 72, 24}, {{129}, 2, 33, 7},    {{0, 70}, 3, 64, 64}};

TEST(OuterSums, ragged_batches) {
  std::vector<OpCase> cases;
  for (const Extents& e : extents) {
    const SequenceLayout layout = layout_of(e.lengths, 200);
    cases.push_back({.name = format_text("outer_sums of {}, {} x {}", e.lengths, e.rows, e.columns),
                     .inputs = {normal_array({layout.tokens(), e.heads, e.rows}, 160),
                                normal_array({layout.tokens(), e.heads, e.columns}, 161)},
                     .function = one_result([=](auto x) { return outer_sums(x[0], x[1], on(x[0], layout)); }),
                     .reference = one_array([=](const Arrays& x) { return summed_products(x, layout); }),
                     .reduction_length = 130 + std::max(e.rows, e.columns)});
  }
  check(cases);
}

TEST(RowProducts, ragged_batches_both_orders) {
  std::vector<OpCase> cases;
  for (const Extents& e : extents)
    for (const bool transpose : {false, true}) {
      const SequenceLayout layout = layout_of(e.lengths, 200);
      const Shape matrices = transpose ? Shape{layout.sequences(), e.heads, e.columns, e.rows}
                                       : Shape{layout.sequences(), e.heads, e.rows, e.columns};
      cases.push_back(
          {.name = format_text("row_products of {}, {} x {}, transposed: {}", e.lengths, e.rows, e.columns,
                               transpose),
           .inputs = {normal_array({layout.tokens(), e.heads, e.rows}, 162), normal_array(matrices, 163)},
           .function =
               one_result([=](auto x) { return row_products(x[0], x[1], on(x[0], layout), {transpose}); }),
           .reference = one_array([=](const Arrays& x) { return multiplied_rows(x, layout, transpose); }),
           .parameters = {1},
           .reduction_length = 130 + std::max(e.rows, e.columns)});
    }
  check(cases);
}

/// softmax(q k^T) v by rows, over the first rows alone where a `limited` sequence has fewer tokens.
Array attended_rows(const Arrays& in, const SequenceLayout& layout, bool limited) {
  Array weights = multiplied_rows({in[0], in[1]}, layout, true);
  const std::int64_t heads = in[0].size(1), rows = weights.size(2);
  const auto offsets = layout.offsets.to_vector<std::int32_t>();
  for_each_row(layout, heads, [&](std::int64_t s, std::int64_t t, std::int64_t h) {
    const auto place = static_cast<std::size_t>(s);
    const std::int64_t tokens = offsets[place + 1] - offsets[place], first = (t * heads + h) * rows,
                       end = first + (limited ? std::min(tokens, rows) : rows);
    double largest = -INFINITY, total = 0;
    for (std::int64_t i = first; i < end; ++i) largest = std::max(largest, weights[i]);
    for (std::int64_t i = first; i < end; ++i) total += weights[i] = std::exp(weights[i] - largest);
    for (std::int64_t i = first; i < first + rows; ++i) weights[i] = i < end ? weights[i] / total : 0;
  });
  return multiplied_rows({weights, in[2]}, layout, false);
}

/// Extents: rows of keys, and columns of queries and keys; values have as many columns or `value_columns`.
OpCase projected_case(const Extents& e, std::int64_t value_columns, bool limited) {
  const SequenceLayout layout = layout_of(e.lengths, 200);
  const double scale = 1 / std::sqrt(static_cast<double>(e.columns));
  const Shape keys{layout.sequences(), e.heads, e.rows, e.columns},
      values{layout.sequences(), e.heads, e.rows, value_columns};
  return {.name = format_text("projected_attention of {}, {} rows, width {}, values {}, limited: {}", e.lengths,
                              e.rows, e.columns, value_columns, limited),
          .inputs = {normal_array({layout.tokens(), e.heads, e.columns}, 167),
                     mapped(normal_array(keys, 168), [=](double v) { return scale * v; }),
                     normal_array(values, 169)},
          .function = one_result(
              [=](auto x) { return projected_attention(x[0], x[1], x[2], on(x[0], layout), limited); }),
          .reference = one_array([=](const Arrays& x) { return attended_rows(x, layout, limited); }),
          .parameters = {1, 2},
          .reduction_length = 130 + std::max(e.rows, e.columns)};
}

TEST(ProjectedAttention, equals_its_definition) {
  std::vector<OpCase> cases;
  for (const Extents& e : extents) {
    if (e.rows == 1) continue;  // one weight: queries and keys have no gradient
    cases.push_back(projected_case(e, 8, false));
    cases.push_back(projected_case(e, e.columns, true));
  }
  for (const std::int64_t width : {32, 128})
    cases.push_back(projected_case({{70, 0, 3}, 1, 66, width}, width, false));
  check(cases);
}

/// More queries than a kernel adds up in one piece.
TEST(ProjectedAttention, long_sequences) {
  const SequenceLayout layout = layout_of({9000, 3, 4097}, 9000);
  const Arrays x{normal_array({layout.tokens(), 1, 8}, 170), normal_array({3, 1, 5, 8}, 171),
                 normal_array({3, 1, 5, 8}, 172)};
  const auto gradients = [&](Device device, DType dtype) {
    const auto to = [&](const Array& a, DType type) { return leaf(tensor_of(a, type, device)); };
    const Tensor q = to(x[0], dtype), k = to(x[1], accumulate_type(dtype)),
                 v = to(x[2], accumulate_type(dtype));
    backward(sum(square(projected_attention(q, k, v, on(q, layout)))));
    return std::array{array_of(gradient_of(k)).values, array_of(gradient_of(v)).values};
  };
  const auto expected = gradients({}, DType::float64);
  for (const Device device : test_devices())
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      if (dtype == DType::bfloat16 && device == Device{}) continue;
      const auto actual = gradients(device, dtype);
      for (std::size_t i = 0; i < actual.size(); ++i)
        EXPECT_EQ(difference(actual[i], expected[i], 4 * tolerance(dtype, 9000)), "") << device << " " << dtype;
    }
}

/// Positive features, as attention has them.
TEST(FeatureAttention, equals_its_definition) {
  std::vector<OpCase> cases;
  for (const Extents& e : extents) {
    // one token: the gradients of its features all but vanish, and rounding of the output is all that is left
    if (e.lengths == std::vector{1}) continue;
    const SequenceLayout layout = layout_of(e.lengths, 200);
    const Shape features{layout.tokens(), e.heads, e.rows};
    cases.push_back(
        {.name = format_text("feature_attention of {}, {} features, width {}", e.lengths, e.rows, e.columns),
         .inputs = {uniform_array(features, 164, 0.1, 1), uniform_array(features, 165, 0.1, 1),
                    normal_array({layout.tokens(), e.heads, e.columns}, 166)},
         .function =
             one_result([=](auto x) { return feature_attention(x[0], x[1], x[2], on(x[0], layout), 0.01); }),
         .reference = one_array([=](const Arrays& x) { return attended_by_features(x, layout, 0.01); }),
         .reduction_length = 200});
  }
  check(cases);
}

/// Widths that fill tiles, that several tiles share and that fit no pack; more tokens than one chunk.
TEST(LinearAttention, is_attention_by_its_features) {
  std::vector<OpCase> cases;
  const auto phi = [](double x) { return x > 0 ? x + 1 : std::exp(x); };
  // differences would meet the jump of the curvature at 0
  const auto off_zero = [](double x) { return x > 0 ? x + 0.1 : x - 0.1; };
  for (const auto& [lengths, heads, width] :
       {std::tuple{std::vector{35, 1, 0, 130}, 2, 8}, std::tuple{std::vector{70, 3}, 1, 64},
        std::tuple{std::vector{65}, 1, 72}, std::tuple{std::vector{0, 40}, 3, 33},
        std::tuple{std::vector{600, 20}, 1, 16}}) {
    const SequenceLayout layout = layout_of(lengths, 700);
    const Shape shape{layout.tokens(), heads, width};
    cases.push_back({.name = format_text("linear_attention of {}, width {}", lengths, width),
                     .inputs = {mapped(normal_array(shape, 173), off_zero),
                                mapped(normal_array(shape, 174), off_zero), normal_array(shape, 175)},
                     .function = one_result(
                         [=](auto x) { return linear_attention(x[0], x[1], x[2], on(x[0], layout), 0.01); }),
                     .reference = one_array([=](const Arrays& x) {
                       return attended_by_features({mapped(x[0], phi), mapped(x[1], phi), x[2]}, layout, 0.01);
                     }),
                     .reduction_length = 700});
  }
  check(cases);
}

/// Tiles of 128 x 128, and their edges.
TEST(SequenceProducts, many_columns) {
  const SequenceLayout layout = layout_of({0, 140, 3, 37}, 200);
  for (const Device device : test_devices())
    for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16}) {
      if (dtype == DType::bfloat16 && device == Device{}) continue;
      const auto rows = [&](std::int64_t width, std::uint64_t seed) {
        return tensor_of(normal_array({layout.tokens(), 2, width}, seed), dtype, device);
      };
      const Tensor a = rows(136, 176), b = rows(200, 177),
                   m = tensor_of(normal_array({4, 2, 136, 200}, 178), accumulate_type(dtype), device);
      const SequenceLayout there = on(a, layout);
      const Arrays x{array_of(a), array_of(b), array_of(m)};
      EXPECT_EQ(difference(array_of(outer_sums(a, b, there)).values,
                           summed_products({x[0], x[1]}, layout).values, tolerance(dtype, 140)),
                "");
      EXPECT_EQ(difference(array_of(row_products(a, m, there)).values,
                           multiplied_rows({x[0], x[2]}, layout, false).values, tolerance(dtype, 140)),
                "");
      EXPECT_EQ(difference(array_of(row_products(b, m, there, {true})).values,
                           multiplied_rows({x[1], x[2]}, layout, true).values, tolerance(dtype, 200)),
                "");
    }
}

/// Longer than what one chunk sums, on the CPU and on a GPU.
TEST(OuterSums, long_sequences_are_summed_in_chunks) {
  const SequenceLayout layout = layout_of({9000, 5, 600}, 9000);
  const Array a = normal_array({layout.tokens(), 1, 3}, 167), b = normal_array({layout.tokens(), 1, 4}, 168);
  const Array ones({layout.tokens(), 1, 4}, 1);
  const Arrays positive{mapped(a, [](double x) { return std::abs(x); }),
                        mapped(a, [](double x) { return x * x; }), b};
  const Array sums = summed_products({a, b}, layout), products = summed_products({positive[1], b}, layout),
              totals = summed_products({positive[1], ones}, layout);
  Array quotient = multiplied_rows({positive[0], products}, layout, false);
  const Array divisors = multiplied_rows({positive[0], totals}, layout, false);
  for (std::int64_t i = 0; i < quotient.count(); ++i) quotient[i] /= divisors[i];
  for (const Device device : test_devices())
    for (const DType dtype : {DType::float64, DType::float32}) {
      const auto to = [&](const Array& x) { return tensor_of(x, dtype, device); };
      const SequenceLayout there = on(to(a), layout);
      EXPECT_EQ(
          difference(outer_sums(to(a), to(b), there).to_vector<double>(), sums.values, tolerance(dtype, 9000)),
          "");
      EXPECT_EQ(
          difference(feature_attention(to(positive[0]), to(positive[1]), to(b), there, 0).to_vector<double>(),
                     quotient.values, tolerance(dtype, 9000)),
          "");
    }
}

/// Rows beyond the last sequence take no part and become zero, also as gradients.
TEST(SequenceProducts, unused_capacity_is_zero) {
  std::vector<std::int32_t> position;
  for (int i = 0; i < 70; ++i) position.push_back(i < 40 ? i : i - 40);
  const SequenceLayout layout = make_layout(arrange_sequences({0, 40, 70}, position, {40, 41}, 100, 128));
  for (const Device device : test_devices())
    for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16}) {
      if (dtype == DType::bfloat16 && device == Device{}) continue;
      const auto rows = [&](std::uint64_t seed) {
        return leaf(tensor_of(uniform_array({128, 2, 16}, seed, 0.1, 1), dtype, device));
      };
      for (const auto op : {feature_attention, linear_attention}) {
        const std::vector<Tensor> x{rows(1), rows(2), rows(3)};
        const Tensor y = op(x[0], x[1], x[2], on(x[0], layout), 0);
        backward(y);
        std::vector<Tensor> all{y};
        for (const Tensor& leaf : x) all.push_back(gradient_of(leaf));
        for (const Tensor& values : all) {
          EXPECT_EQ(values.narrowed(0, 70, 58).to_vector<double>(), std::vector<double>(58 * 32, 0));
          EXPECT_NE(values.narrowed(0, 0, 70).to_vector<double>(), std::vector<double>(70 * 32, 0));
        }
      }
    }
}

TEST(SequenceProducts, mistakes_are_named) {
  const SequenceLayout layout = layout_of({2}, 4);
  const Tensor x = zeros({2, 3, 4}, DType::float32), y = zeros({3, 3, 4}, DType::float32);
  EXPECT_TRUE(mentions(thrown_error([&] { outer_sums(x, y, layout); }),
                       "outer_sums: needs two tensors [2, heads, width] of one type"));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         row_products(x, zeros({1, 3, 5, 4}, DType::float32), layout);
                       }),
                       "row_products: x [2, heads, width] needs float32 matrices [1, heads, width, columns]"));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         feature_attention(x, zeros({2, 3, 5}, DType::float32), x, layout, 0);
                       }),
                       "feature_attention: queries and keys must have the same features"));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         projected_attention(x, zeros({1, 3, 5, 4}, DType::float32),
                                             zeros({1, 3, 6, 4}, DType::float32), layout);
                       }),
                       "projected_attention: q [2, heads, width] needs float32 keys [1, heads, rows, width]"));
}

}  // namespace
}  // namespace tern::test
