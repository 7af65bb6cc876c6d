// SEA against whole matrices in PyTorch (Lee et al. 2024, arXiv 2310.01777, section 3), and its limits.
#include <gtest/gtest.h>

#include "support/attention_by_definition.h"
#include "support/attention_contract.h"
#include "support/golden.h"
#include "support/tolerance.h"

namespace tern::test {
namespace {

constexpr AttentionShape shape{.heads = 2, .head_width = 4, .max_length = 64};
constexpr std::uint32_t first_epoch = 0;

/// Gates that let the exact part through to this degree, whatever the query.
void set_gates(const Mechanism& mechanism, double strength, double share) {
  copy(zeros({2, 2 * shape.head_width}, DType::float64), mechanism.parameter("gates.weight").value.detach());
  const auto logit = [](double x) { return std::log(x / (1 - x)); };
  copy(from_vector(std::vector{logit(strength), logit(share)}, {2}),
       mechanism.parameter("gates.bias").value.detach());
}

TEST(Sea, matches_pytorch) {
  const Golden golden("sea");
  const SequenceLayout layout = layout_of({17, 1, 8, 3}, 64);
  const Mechanism mechanism({"sea", {"segments=5", "keys=3", "channels=2", "features=6"}}, shape);
  ASSERT_EQ(
      orthogonal_directions({6, 4}, {{stream_key(17, "attention.directions"), &first_epoch}}, DType::float64)
          .to_vector<double>(),
      golden.values("directions"));
  std::map<std::string, Tensor> leaves;
  std::vector<Tensor> in;
  for (const char* name : {"q", "k", "v"}) {
    in.push_back(leaf(golden.tensor(name)));
    leaves[name] = in.back();
  }
  for (const std::string& name : golden.names("parameters.")) {
    leaves[name] = mechanism.parameter(name).value;
    copy(golden.tensor("parameters." + name), leaves[name].detach());
  }
  const Tensor y = mechanism(in, layout), dy = golden.tensor("dy");
  EXPECT_EQ(difference(y.to_vector<double>(), golden.values("y"), 1e-12), "");
  backward(std::span(&y, 1), std::span(&dy, 1));
  EXPECT_EQ(leaves.size(), golden.names("gradients.").size());
  for (const auto& [name, x] : leaves)
    EXPECT_EQ(difference(gradient_of(x).to_vector<double>(), golden.values("gradients." + name), 1e-10), "")
        << name;
}

/// With keys for all and the gates open nothing is estimated.
TEST(Sea, enough_keys_and_open_gates_are_exact_attention) {
  const SequenceLayout layout = layout_of({40, 1, 0, 9}, 64);
  for (const char* segments : {"segments=128", "segments=7", "segments=33"}) {
    const Mechanism mechanism({"sea", {segments, "keys=40"}}, shape);
    set_gates(mechanism, 1 - 1e-14, 1 - 1e-14);
    const std::vector<Tensor> rows = random_rows(layout, shape);
    const Array exact =
        attended({array_of(rows[0]), array_of(rows[1]), array_of(rows[2])}, layout, softmax_weights(0.5));
    EXPECT_EQ(difference(mechanism(rows, layout).to_vector<double>(), exact.values, 1e-12), "") << segments;
  }
}

/// With the exact part shut off every query of a sequence and head gets one average of the values, inside their
/// range.
TEST(Sea, closed_gates_give_an_average_of_the_values) {
  const SequenceLayout layout = layout_of({40}, 64);
  const Mechanism mechanism({"sea", {"segments=7", "keys=4"}}, shape);
  set_gates(mechanism, 0.5, 1e-14);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const Array y = array_of(mechanism(rows, layout));
  for (std::int64_t i = 8; i < y.count(); ++i) EXPECT_NEAR(y[i], y[i % 8], 1e-12);
  const std::vector<Tensor> ones{rows[0], rows[1], full({40, 2, 4}, 1, DType::float64)};
  EXPECT_EQ(difference(mechanism(ones, layout).to_vector<double>(), std::vector<double>(320, 1), 1e-12), "");
}

/// More keys bring the output nearer to exact attention: the selection is better than none.
TEST(Sea, converges_with_the_number_of_keys) {
  const SequenceLayout layout = layout_of({60}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const Array exact =
      attended({array_of(rows[0]), array_of(rows[1]), array_of(rows[2])}, layout, softmax_weights(0.5));
  const auto error = [&](const char* keys) {
    const Mechanism mechanism({"sea", {"segments=30", keys}}, shape);
    set_gates(mechanism, 1 - 1e-14, 1 - 1e-14);
    const std::vector<double> y = mechanism(rows, layout).to_vector<double>();
    double square = 0;
    for (std::size_t i = 0; i < y.size(); ++i) square += std::pow(y[i] - exact.values[i], 2);
    return std::sqrt(square / static_cast<double>(y.size()));
  };
  const double few = error("keys=4"), some = error("keys=20"), most = error("keys=55");
  EXPECT_LT(some, few / 1.5);
  EXPECT_LT(most, some / 2);
}

/// The choice of keys is no function that can be differentiated: the network learns by the average and the
/// gates alone.
TEST(Sea, the_estimate_learns_by_the_average_alone) {
  const SequenceLayout layout = layout_of({30}, 64);
  const auto largest_gradient = [&](double share) {
    const Mechanism mechanism({"sea", {"segments=7", "keys=4"}}, shape);
    set_gates(mechanism, 0.5, share);
    backward(sum(square(mechanism(random_rows(layout, shape), layout))));
    double largest = 0;
    for (const double x : gradient_of(mechanism.parameter("decoder.weight").value).to_vector<double>())
      largest = std::max(largest, std::abs(x));
    return largest;
  };
  EXPECT_LT(largest_gradient(1 - 1e-14), 1e-10);
  EXPECT_GT(largest_gradient(0.5), 1e-6);
}

/// Rows of unused capacity get zeros and no gradient, and change nothing.
TEST(Sea, unused_capacity_is_zero) {
  const SequenceLayout exact = layout_of({3, 9}, 16),
                       roomy = make_layout(arrange_sequences({0, 3, 12}, {0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8},
                                                             {40, 41}, 16, 20));
  const Mechanism mechanism({"sea", {"segments=5", "keys=3"}}, shape);
  std::vector<Tensor> rows = random_rows(exact, shape), leaves;
  for (const Tensor& x : rows)
    leaves.push_back(leaf(concatenate({x, full({8, 2, 4}, 0.5, DType::float64)}, 0)));
  const Tensor y = mechanism.function(roomy)(leaves)[0];
  EXPECT_EQ(difference(slice(y.detach(), 0, 0, 12).to_vector<double>(),
                       mechanism(rows, exact).to_vector<double>(), 1e-13),
            "");
  EXPECT_EQ(slice(y.detach(), 0, 12, 8).to_vector<double>(), std::vector<double>(64, 0));
  const Tensor dy = concatenate({full({12, 2, 4}, 1, DType::float64), zeros({8, 2, 4}, DType::float64)}, 0);
  backward(std::span(&y, 1), std::span(&dy, 1));
  for (const Tensor& x : leaves)
    EXPECT_EQ(slice(gradient_of(x), 0, 12, 8).to_vector<double>(), std::vector<double>(64, 0));
}

TEST(Sea, features_follow_the_head_width_and_are_drawn_anew) {
  const SequenceLayout layout = layout_of({20}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const auto at = [&](const std::vector<std::string>& settings, std::uint32_t step) {
    Mechanism mechanism({"sea", settings}, shape);
    mechanism.step = step;
    return mechanism(rows, layout).to_vector<double>();
  };
  EXPECT_EQ(at({}, 1), at({"features=8"}, 1));  // 4 ln 4 = 5.5, in eights
  EXPECT_EQ(at({"redraw_interval=3"}, 3), at({"redraw_interval=3"}, 5));
  EXPECT_NE(at({"redraw_interval=3"}, 5), at({"redraw_interval=3"}, 6));
}

}  // namespace
}  // namespace tern::test
