// A term of the objective that joins the backward pass on its own.
#include "support/devices.h"
#include "support/op_case.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

/// 3 sum y dy + 5 sum of squares: as the sum of both would be derived.
TEST(AuxiliaryLoss, its_gradient_joins_that_of_the_loss) {
  for (const Device device : test_devices()) {
    const Array values = normal_array({4, 3}, 520), weights = normal_array({4, 3}, 521);
    const Tensor x = leaf(tensor_of(values, DType::float64, device)),
                 dy = tensor_of(weights, DType::float64, device);
    const Tensor y = with_auxiliary_loss(affine(x, 3), affine(sum(square(x)), 5));
    EXPECT_EQ(difference(y.to_vector<double>(), affine(x, 3).to_vector<double>(), 0), "");
    backward(std::span(&y, 1), std::span(&dy, 1));
    std::vector<double> expected;
    for (std::int64_t i = 0; i < values.count(); ++i) expected.push_back(3 * weights[i] + 10 * values[i]);
    EXPECT_EQ(difference(gradient_of(x).to_vector<double>(), expected, 1e-15), "");
  }
}

TEST(AuxiliaryLoss, is_left_out_where_nothing_is_recorded) {
  const NoGradientScope scope;
  const Tensor x = leaf(zeros({2}, DType::float64));
  EXPECT_FALSE(with_auxiliary_loss(affine(x, 1), sum(x)).requires_gradient());
}

TEST(AuxiliaryLoss, must_be_one_number) {
  const Tensor x = zeros({2}, DType::float64);
  EXPECT_TRUE(mentions(thrown_error([&] { with_auxiliary_loss(x, x); }), "loss"));
}

}  // namespace
}  // namespace tern::test
