#include "support/devices.h"
#include "support/golden.h"
#include "support/op_case.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

Array softmax_reference(const Array& x) {
  Array y = x;
  const std::int64_t width = x.size(-1);
  for (std::int64_t r = 0; r < x.count() / width; ++r) {
    double largest = x[r * width], total = 0;
    for (std::int64_t i = 0; i < width; ++i) largest = std::max(largest, x[r * width + i]);
    for (std::int64_t i = 0; i < width; ++i) total += std::exp(x[r * width + i] - largest);
    for (std::int64_t i = 0; i < width; ++i) y[r * width + i] = std::exp(x[r * width + i] - largest) / total;
  }
  return y;
}

TEST(Softmax, rows_of_many_widths) {
  std::vector<OpCase> cases;
  for (const Shape& shape : {Shape{1}, Shape{3, 1}, Shape{7}, Shape{5, 17}, Shape{2, 3, 33}, Shape{3, 1025}})
    cases.push_back({.name = format_text("softmax {}", shape),
                     .inputs = {uniform_array(shape, 100, -3, 3)},
                     .function = one_result([](auto x) { return softmax(x[0]); }),
                     .reference = one_array([](const Arrays& x) { return softmax_reference(x[0]); }),
                     .reduction_length = shape[shape.rank() - 1]});
  cases.push_back({.name = "softmax of no rows",
                   .inputs = {Array({0, 5})},
                   .function = one_result([](auto x) { return softmax(x[0]); }),
                   .reference = one_array([](const Arrays& x) { return x[0]; }),
                   .is_empty = true});
  check(cases);
}

Array losses(const Array& x, const std::vector<std::int32_t>& labels) {
  double total = 0;
  const Array p = softmax_reference(x);
  for (std::int64_t r = 0; r < x.size(0); ++r) total -= std::log(p.at(r, labels[static_cast<std::size_t>(r)]));
  return Array(Shape{}, total);
}

TEST(CrossEntropy, rows_and_classes) {
  std::vector<OpCase> cases;
  for (const Shape& shape : {Shape{1, 2}, Shape{7, 3}, Shape{5, 10}, Shape{37, 17}}) {
    std::vector<std::int32_t> labels;
    for (std::int64_t r = 0; r < shape[0]; ++r) labels.push_back(static_cast<std::int32_t>(r * 5 % shape[1]));
    cases.push_back({.name = format_text("cross_entropy {}", shape),
                     .inputs = {uniform_array(shape, 101, -3, 3)},
                     .function = one_result([labels](auto x) {
                       return cross_entropy(
                           x[0],
                           from_vector(labels, {static_cast<std::int64_t>(labels.size())}, x[0].device()));
                     }),
                     .reference = one_array([labels](const Arrays& x) { return losses(x[0], labels); }),
                     .reduction_length = shape.count()});
  }
  check(cases);
}

TEST(CrossEntropy, adds_to_the_score_of_a_step) {
  const std::vector<float> logits{1, 3, 2, 5, 5, 0, -1, -2, -3};
  for (const Device device : test_devices()) {
    const Tensor memory = zeros({static_cast<std::int64_t>(sizeof(ScoreTotals))}, DType::uint8, device);
    auto* score = reinterpret_cast<ScoreTotals*>(memory.address());
    const Tensor x = from_vector(logits, {3, 3}, device);
    double expected = 0;
    for (const std::vector<std::int32_t>& labels : {std::vector<std::int32_t>{1, 0, 2}, {0, 1, 0}})
      expected += cross_entropy(x, from_vector(labels, {3}, device), score).item();
    const std::vector<std::uint8_t> bytes = memory.to_vector<std::uint8_t>();
    ScoreTotals got;
    std::memcpy(&got, bytes.data(), sizeof got);
    EXPECT_EQ(got.examples, 6);
    EXPECT_EQ(got.correct, 3);  // of equal logits the first one counts
    EXPECT_NEAR(got.loss, expected, 1e-5);
  }
}

/// Rows of weight 0 count for nothing: neither in the loss, nor in its gradient, nor in the score.
TEST(CrossEntropy, takes_the_rows_of_weight_one) {
  const std::vector<std::int32_t> labels{2, 0, 1, 3, 3, 0, 2};
  const std::vector<double> weights{1, 0, 1, 1, 0, 0, 1};
  const auto on_device_of = [](const Tensor& x, const auto& values) { return on(x, from_vector(values, {7})); };
  check({{.name = "cross_entropy with weights",
          .inputs = {uniform_array({7, 5}, 104, -3, 3)},
          .function = one_result([=](auto x) {
            const Tensor chosen = on(x[0], cast(from_vector(weights, {7}), accumulate_type(x[0].dtype())));
            return cross_entropy(x[0], on_device_of(x[0], labels), chosen, nullptr);
          }),
          .reference = one_array([=](const Arrays& x) {
            const Array p = softmax_reference(x[0]);
            double total = 0;
            for (std::int64_t r = 0; r < 7; ++r)
              total -=
                  weights[static_cast<std::size_t>(r)] * std::log(p.at(r, labels[static_cast<std::size_t>(r)]));
            return Array(Shape{}, total);
          }),
          .reduction_length = 35}});
  for (const Device device : test_devices()) {
    const Tensor memory = zeros({static_cast<std::int64_t>(sizeof(ScoreTotals))}, DType::uint8, device);
    const Tensor x = from_vector(std::vector<float>{1, 3, 2, 5, 5, 0, -1, -2, -3}, {3, 3}, device);
    const Tensor loss = cross_entropy(x, from_vector(std::vector<std::int32_t>{1, 0, 0}, {3}, device),
                                      from_vector(std::vector<float>{0, 1, 1}, {3}, device),
                                      reinterpret_cast<ScoreTotals*>(memory.address()));
    const std::vector<std::uint8_t> bytes = memory.to_vector<std::uint8_t>();
    ScoreTotals got;
    std::memcpy(&got, bytes.data(), sizeof got);
    EXPECT_EQ(got.examples, 2);
    EXPECT_EQ(got.correct, 2);
    EXPECT_NEAR(got.loss, loss.item(), 1e-6);
  }
}

TEST(CrossEntropy, of_no_rows_is_zero) {
  EXPECT_EQ(cross_entropy(zeros({0, 3}, DType::float32), zeros({0}, DType::int32)).item(), 0);
}

/// Logits of 1000, equal logits and a certain row, forward and backward.
TEST(CrossEntropy, matches_golden_values) {
  const Golden golden("functions");
  const Tensor logits = leaf(golden.tensor("cross_entropy.logits")),
               labels = golden.tensor("cross_entropy.labels");
  const Tensor loss = affine(cross_entropy(logits, labels), 1.0 / static_cast<double>(labels.size(0)));
  backward(loss);
  EXPECT_EQ(difference(std::vector{loss.item()}, golden.values("cross_entropy.loss"), 1e-12), "");
  EXPECT_EQ(difference(gradient_of(logits).to_vector<double>(), golden.values("cross_entropy.dlogits"), 1e-12),
            "");
}

TEST(Softmax, matches_golden_values) {
  const Golden golden("functions");
  for (const auto& [name, op] : {std::pair{"softmax", &softmax}, std::pair{"gelu", &gelu}}) {
    const std::string prefix = std::string(name) + ".";
    const Tensor x = leaf(golden.tensor(prefix + "x")), y = op(x), dy = golden.tensor(prefix + "dy");
    backward(std::span(&y, 1), std::span(&dy, 1));
    EXPECT_EQ(difference(y.to_vector<double>(), golden.values(prefix + "y"), 1e-12), "") << name;
    EXPECT_EQ(difference(gradient_of(x).to_vector<double>(), golden.values(prefix + "dx"), 1e-12), "") << name;
  }
}

TEST(SquaredError, sums_over_rows_and_leaves_the_target_alone) {
  const Array target = normal_array({7}, 103);
  check({{.name = "squared_error",
          .inputs = {normal_array({7}, 102)},
          .function = one_result(
              [target](auto x) { return squared_error(x[0], on(x[0], tensor_of(target, x[0].dtype()))); }),
          .reference = one_array([target](const Arrays& x) {
            double total = 0;
            for (std::int64_t i = 0; i < 7; ++i) total += (x[0][i] - target[i]) * (x[0][i] - target[i]);
            return Array(Shape{}, total);
          }),
          .reduction_length = 7}});
  const Tensor fixed = leaf(zeros({2}, DType::float32));
  const Tensor loss = squared_error(leaf(full({2}, 3, DType::float32)), fixed);
  backward(loss);
  EXPECT_EQ(loss.item(), 18);
  EXPECT_EQ(gradient_of(fixed).to_vector<float>(), (std::vector<float>{0, 0}));
}

TEST(SquaredError, adds_to_the_score_of_a_step) {
  for (const Device device : test_devices()) {
    const Tensor memory = zeros({static_cast<std::int64_t>(sizeof(ScoreTotals))}, DType::uint8, device);
    const Tensor prediction = from_vector(std::vector<float>{1, 2, 5}, {3}, device),
                 target = from_vector(std::vector<float>{1, 4, 2}, {3}, device);
    auto* score = reinterpret_cast<ScoreTotals*>(memory.address());
    EXPECT_EQ(squared_error(prediction, target, score).item(), 13);
    squared_error(prediction, prediction, score);
    const std::vector<std::uint8_t> bytes = memory.to_vector<std::uint8_t>();
    ScoreTotals got;
    std::memcpy(&got, bytes.data(), sizeof got);
    EXPECT_EQ(got.examples, 6);
    EXPECT_EQ(got.loss, 13);
    EXPECT_EQ(got.correct, 0);
  }
}

TEST(Softmax, mistakes_are_named) {
  const Tensor logits = zeros({2, 3}, DType::float32);
  EXPECT_TRUE(mentions(thrown_error([] { softmax(zeros({2, 0}, DType::float32)); }), "softmax: "));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         cross_entropy(logits, from_vector(std::vector<std::int32_t>{0, 3}, {2}));
                       }),
                       "cross_entropy: label 3 of row 1 is not one of 3 classes"));
  EXPECT_TRUE(
      mentions(thrown_error([&] { cross_entropy(logits, zeros({3}, DType::int32)); }), "cross_entropy: "));
}

}  // namespace
}  // namespace tern::test
