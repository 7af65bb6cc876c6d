#include <cmath>
#include <numbers>

#include "support/devices.h"
#include "support/op_case.h"
#include "support/thrown_error.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

/// op(a) op(b) of each pair of matrices.
Array products(const Array& a, const Array& b, MatmulOptions options) {
  const std::int64_t m = a.size(options.transpose_a ? -1 : -2), k = a.size(options.transpose_a ? -2 : -1),
                     n = b.size(options.transpose_b ? -2 : -1);
  Shape shape = a.shape;
  shape[shape.rank() - 2] = m;
  shape[shape.rank() - 1] = n;
  Array c(shape);
  for (std::int64_t batch = 0; m * n > 0 && batch < c.count() / (m * n); ++batch)
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j)
        for (std::int64_t l = 0; l < k; ++l)
          c[(batch * m + i) * n + j] += a[batch * m * k + (options.transpose_a ? l * m + i : i * k + l)] *
                                        b[batch * k * n + (options.transpose_b ? j * k + l : l * n + j)];
  return c;
}

OpCase product_case(std::vector<std::int64_t> leading, std::int64_t m, std::int64_t n, std::int64_t k,
                    MatmulOptions options) {
  auto with = [&](std::int64_t rows, std::int64_t columns) {
    std::vector<std::int64_t> extents = leading;
    extents.insert(extents.end(), {rows, columns});
    return Shape(extents);
  };
  const Shape a = options.transpose_a ? with(k, m) : with(m, k),
              b = options.transpose_b ? with(n, k) : with(k, n);
  return {
      .name = format_text("matmul {} x {} (transposed {} {})", a, b, options.transpose_a, options.transpose_b),
      .inputs = {normal_array(a, 80), normal_array(b, 81)},
      .function = one_result([options](auto x) { return matmul(x[0], x[1], options); }),
      .reference = one_array([options](const Arrays& x) { return products(x[0], x[1], options); }),
      .reduction_length = std::max({m, n, k}),
      .is_empty = a.count() == 0};
}

TEST(Matmul, sizes_batches_and_transposes) {
  std::vector<OpCase> cases;
  for (const bool ta : {false, true})
    for (const bool tb : {false, true}) {
      const MatmulOptions options{ta, tb};
      cases.push_back(product_case({}, 1, 1, 1, options));
      cases.push_back(product_case({}, 3, 5, 7, options));
      cases.push_back(product_case({2, 3}, 4, 3, 5, options));
      cases.push_back(product_case({}, 257, 3, 17, options));
      cases.push_back(product_case({2}, 0, 3, 2, options));
    }
  check(cases);
}

/// Long inner axes of small products, which a GPU cuts into pieces; the last one is shorter.
TEST(Matmul, long_inner_axes) {
  std::vector<OpCase> cases;
  for (const bool ta : {false, true})
    for (const bool tb : {false, true}) cases.push_back(product_case({3}, 4, 5, 8199, {ta, tb}));
  cases.push_back(product_case({2}, 4, 8192, 8, {}));
  check(cases);
}

TEST(Matmul, an_inner_size_of_zero_gives_zeros) {
  const Tensor c = matmul(zeros({2, 0}, DType::float32), zeros({0, 3}, DType::float32));
  EXPECT_EQ(c.to_vector<float>(), std::vector<float>(6, 0));
}

TEST(Matmul, both_operands_may_be_one_tensor) {
  check({{.name = "x x^T",
          .inputs = {normal_array({3, 5}, 3)},
          .function = one_result([](auto x) { return matmul(x[0], x[0], {.transpose_b = true}); }),
          .reference = one_array([](const Arrays& x) { return products(x[0], x[0], {.transpose_b = true}); }),
          .reduction_length = 5}});
}

double activated(double x, ActivationKind kind) {
  if (kind == ActivationKind::relu) return std::max(x, 0.0);
  return kind == ActivationKind::gelu ? 0.5 * x * std::erfc(-x / std::numbers::sqrt2) : x;
}

Array linear_reference(const Arrays& x, ActivationKind kind) {
  Shape shape = x[0].shape;
  const std::int64_t inputs = x[0].size(-1), outputs = x[1].size(0);
  shape[shape.rank() - 1] = outputs;
  Array y(shape);
  for (std::int64_t r = 0; r < y.count() / outputs; ++r)
    for (std::int64_t o = 0; o < outputs; ++o) {
      double total = x.size() > 2 ? x[2][o] : 0;
      for (std::int64_t i = 0; i < inputs; ++i) total += x[0][r * inputs + i] * x[1].at(o, i);
      y[r * outputs + o] = activated(total, kind);
    }
  return y;
}

/// Inputs for which no sum lies near the kink of relu: x and weight are positive, biases far apart.
Arrays linear_inputs(const Shape& x, std::int64_t outputs, bool has_bias, ActivationKind kind) {
  const std::int64_t inputs = x[x.rank() - 1];
  if (kind != ActivationKind::relu) {
    Arrays out{normal_array(x, 90), normal_array({outputs, inputs}, 91)};
    if (has_bias) out.push_back(normal_array({outputs}, 92));
    return out;
  }
  Arrays out{uniform_array(x, 90, 0.5, 1), uniform_array({outputs, inputs}, 91, 0.2, 1)};
  for (std::int64_t o = 0; !has_bias && o < outputs; o += 2)
    for (std::int64_t i = 0; i < inputs; ++i) out[1].at(o, i) = -out[1].at(o, i);
  if (has_bias) {
    out.emplace_back(Shape{outputs});
    for (std::int64_t o = 0; o < outputs; ++o) out[2][o] = o % 2 ? 0.3 : -2.0 * static_cast<double>(inputs);
  }
  return out;
}

TEST(Linear, with_and_without_bias_and_activation) {
  std::vector<OpCase> cases;
  for (const ActivationKind kind : {ActivationKind::none, ActivationKind::relu, ActivationKind::gelu})
    for (const bool has_bias : {true, false})
      for (const auto& [shape, outputs] : std::vector<std::pair<Shape, std::int64_t>>{{{1, 1}, 1},
                                                                                      {{7}, 3},
                                                                                      {{5, 3}, 4},
                                                                                      {{2, 3, 4}, 5},
                                                                                      {{257, 3}, 2},
                                                                                      {{0, 3}, 2},
                                                                                      {{4099, 2}, 3},
                                                                                      {{300, 64}, 192}})
        cases.push_back(
            {.name = format_text("linear {} to {}, bias {}, activation {}", shape, outputs, has_bias, kind),
             .inputs = linear_inputs(shape, outputs, has_bias, kind),
             .function = one_result(
                 [kind, has_bias](auto x) { return linear(x[0], x[1], has_bias ? x[2] : Tensor(), kind); }),
             .reference = one_array([kind](const Arrays& x) { return linear_reference(x, kind); }),
             .parameters = {2},
             .reduction_length = shape.count() + outputs,
             .is_empty = shape.count() == 0});
  check(cases);
}

TEST(Linear, input_and_bias_may_be_one_tensor) {
  check({{.name = "linear x w^T + x",
          .inputs = {normal_array({4}, 3), normal_array({4, 4}, 4)},
          .function = one_result([](auto x) {
            const Tensor y = affine(x[0], 1);
            return linear(y, x[1], y);
          }),
          .reference = one_array([](const Arrays& x) {
            return linear_reference({x[0], x[1], x[0]}, ActivationKind::none);
          }),
          .has_bfloat16 = false,
          .reduction_length = 5}});
}

TEST(Linear, bias_may_be_a_strided_view) {
  const Tensor table = from_vector(std::vector<double>{1, 2, 3, 4, 5, 6}, {3, 2});
  const Tensor x = zeros({1, 1}, DType::float64), weight = zeros({3, 1}, DType::float64);
  const Tensor y = linear(x, weight, reshape(slice(transpose(table, 0, 1), 0, 1, 1), {3}));
  EXPECT_EQ(y.to_vector<double>(), (std::vector<double>{2, 4, 6}));
  EXPECT_EQ(linear(x, weight, unstack(table, 1)[1]).to_vector<double>(), (std::vector<double>{2, 4, 6}));
}

TEST(Linear, relu_lets_a_nan_pass) {
  for (const Device device : test_devices()) {
    const Tensor x = full({1, 1}, std::nan(""), DType::float32, device),
                 weight = full({2, 1}, 1, DType::float32, device), bias = full({2}, 1, DType::float32, device);
    for (const Tensor& added : {Tensor(), bias})
      for (const float y : linear(x, weight, added, ActivationKind::relu).to_vector<float>())
        EXPECT_TRUE(std::isnan(y)) << device;
    EXPECT_TRUE(std::isnan(relu(x).item())) << device;
  }
}

/// Many rows of narrow matrices have kernels of their own on CUDA.
TEST(Linear, many_narrow_rows) {
  std::vector<OpCase> cases;
  for (const auto& [rows, inputs, outputs] :
       std::vector<std::array<std::int64_t, 3>>{{2100, 64, 192}, {2100, 64, 64}, {2100, 128, 64}})
    for (const ActivationKind kind : {ActivationKind::none, ActivationKind::gelu})
      cases.push_back({.name = format_text("linear {} x {} to {}, activation {}", rows, inputs, outputs, kind),
                       .inputs = linear_inputs({rows, inputs}, outputs, true, kind),
                       .function = one_result([kind](auto x) { return linear(x[0], x[1], x[2], kind); }),
                       .reference = one_array([kind](const Arrays& x) { return linear_reference(x, kind); }),
                       .parameters = {2},
                       .reduction_length = rows * inputs + outputs});
  check(cases);
}

TEST(Linear, input_and_weight_may_be_one_tensor) {
  check({{.name = "linear x x^T",
          .inputs = {normal_array({3, 5}, 3)},
          .function = one_result([](auto x) {
            const Tensor y = affine(x[0], 1);
            return linear(y, y, {});
          }),
          .reference = one_array([](const Arrays& x) { return products(x[0], x[0], {.transpose_b = true}); }),
          .reduction_length = 5}});
}

TEST(Matmul, mistakes_are_named) {
  const Tensor a = zeros({2, 3}, DType::float32);
  EXPECT_TRUE(mentions(thrown_error([&] { matmul(a, a); }),
                       "matmul: inner sizes must agree, got [2, 3] x [2, 3] (transposed: false, false)"));
  EXPECT_TRUE(mentions(thrown_error([&] { matmul(a, zeros({3, 2}, DType::float64)); }), "matmul: "));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         matmul(zeros({2, 2, 3}, DType::float32), zeros({3, 3, 2}, DType::float32));
                       }),
                       "matmul: leading axes must agree"));
  EXPECT_TRUE(mentions(thrown_error([&] { linear(a, zeros({4, 2}, DType::float32), {}); }), "linear: "));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         linear(a, zeros({4, 3}, DType::float32), zeros({3}, DType::float32));
                       }),
                       "linear: the bias must be float32 [4], got float32 [3]"));
}

}  // namespace
}  // namespace tern::test
