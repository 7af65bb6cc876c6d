#include "tern/tensor.h"

#include <numeric>

#include <gtest/gtest.h>

#include "base/has_cuda.h"
#include "support/thrown_error.h"

namespace tern::test {
namespace {

Tensor counting(const Shape& shape) {
  std::vector<float> values(static_cast<std::size_t>(shape.count()));
  std::iota(values.begin(), values.end(), 0.0f);
  return from_vector(values, shape);
}
using Floats = std::vector<float>;

TEST(Shape, counts_compares_and_prints) {
  EXPECT_EQ(Shape{}.count(), 1);
  EXPECT_EQ((Shape{2, 0, 3}).count(), 0);
  EXPECT_EQ((Shape{2, 3}), (Shape{2, 3}));
  EXPECT_FALSE((Shape{2, 3}) == (Shape{2, 3, 1}));
  EXPECT_EQ(to_text(Shape{2, 3}), "[2, 3]");
  EXPECT_EQ(contiguous_strides({2, 3, 5}), (Shape{15, 5, 1}));
  EXPECT_TRUE(mentions(thrown_error([] { Shape{1, 1, 1, 1, 1, 1, 1}; }), "at most 6 axes, got 7"));
}

TEST(Tensor, copies_share_storage) {
  const Tensor x = counting({2, 3}), y = x;
  EXPECT_TRUE(y.shares_storage_with(x));
  EXPECT_FALSE(x.is_sole_owner());
  y.data<float>()[1] = 9;
  EXPECT_EQ(x.to_vector<float>()[1], 9);
  EXPECT_FALSE(Tensor().defined());
}

TEST(Tensor, views_address_the_right_elements) {
  const Tensor x = counting({2, 3, 4});
  EXPECT_EQ(x.narrowed(1, 1, 2).narrowed(2, 2, 1).to_vector<float>(), (Floats{6, 10, 18, 22}));
  const std::vector<int> axes{2, 0, 1};
  const Tensor turned = x.permuted(axes);
  EXPECT_EQ(turned.shape(), (Shape{4, 2, 3}));
  EXPECT_EQ(turned.narrowed(0, 1, 1).to_vector<float>(), (Floats{1, 5, 9, 13, 17, 21}));
  EXPECT_EQ(x.reshaped({4, 6}).narrowed(0, 1, 1).to_vector<float>(), (Floats{6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(x.viewed({2, 2}, {12, 5}, 1).to_vector<float>(), (Floats{1, 6, 13, 18}));
  EXPECT_EQ(x.size(-1), 4);
}

TEST(Tensor, knows_when_it_is_contiguous) {
  const Tensor x = counting({2, 3, 4});
  const std::vector<int> swapped{1, 0, 2};
  EXPECT_TRUE(x.is_contiguous());
  EXPECT_TRUE(x.narrowed(0, 1, 1).is_contiguous());
  EXPECT_FALSE(x.narrowed(2, 0, 2).is_contiguous());
  EXPECT_FALSE(x.permuted(swapped).is_contiguous());
  EXPECT_TRUE(x.narrowed(1, 0, 0).is_contiguous());
  EXPECT_TRUE(x.narrowed(0, 0, 1).permuted(swapped).is_contiguous());
}

TEST(Tensor, copy_moves_between_strides_and_types) {
  const Tensor x = counting({3, 4}), target = zeros({4, 3}, DType::float64);
  const std::vector<int> swapped{1, 0};
  copy(x, target.permuted(swapped));
  EXPECT_EQ(target.to_vector<double>(), (std::vector<double>{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11}));
  const Tensor small = empty({3, 4}, DType::bfloat16);
  copy(x, small);
  EXPECT_EQ(small.to_vector<std::int32_t>(), x.to_vector<std::int32_t>());
  const Tensor column = full({3, 1}, 2.5, DType::float32).viewed({3, 4}, {1, 0});
  copy(column, target.permuted(swapped));
  EXPECT_EQ(target.to_vector<double>(), std::vector<double>(12, 2.5));
}

TEST(Tensor, every_type_holds_its_values) {
  EXPECT_EQ(from_vector(std::vector<std::uint8_t>{0, 255}, {2}).to_vector<double>(),
            (std::vector<double>{0, 255}));
  EXPECT_EQ(from_vector(std::vector<std::uint16_t>{65535}, {1}).item(), 65535);
  EXPECT_EQ(from_vector(std::vector<std::int64_t>{-(std::int64_t{1} << 40)}, {1}).item(), -0x1p40);
  EXPECT_EQ(full({2, 2}, -3, DType::int32).to_vector<std::int32_t>(), std::vector<std::int32_t>(4, -3));
  EXPECT_EQ(zeros({0, 5}, DType::float32).to_vector<float>(), Floats{});
  EXPECT_EQ(full({}, 4, DType::float64).item(), 4);
}

TEST(Tensor, mistakes_are_named) {
  const Tensor x = counting({2, 3});
  const std::vector<int> swapped{1, 0};
  EXPECT_TRUE(mentions(thrown_error([&] { static_cast<void>(x.data<double>()); }),
                       "asked for float64 elements of a float32 tensor"));
  EXPECT_TRUE(mentions(thrown_error([&] { x.reshaped({5}); }), "reshape: [2, 3] has 6 elements, [5] needs 5"));
  EXPECT_TRUE(mentions(thrown_error([&] { x.permuted(swapped).reshaped({6}); }), "is not contiguous"));
  constexpr std::int64_t huge = std::int64_t{1} << 32;
  EXPECT_TRUE(mentions(thrown_error([&] { empty({huge, huge}, DType::float32); }), "too many elements"));
  EXPECT_TRUE(mentions(thrown_error([&] { empty({huge, huge / 4}, DType::float64); }), "no memory holds"));
  EXPECT_TRUE(mentions(thrown_error([&] { x.narrowed(2, 0, 1); }), "narrow: "));
  EXPECT_TRUE(mentions(thrown_error([&] { x.narrowed(0, -1, 1); }), "narrow: "));
  EXPECT_TRUE(
      mentions(thrown_error([&] { static_cast<void>(x.item()); }), "item: the tensor must hold one element"));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         copy(x, zeros({3, 2}, DType::float32));
                       }),
                       "copy: shapes must agree"));
  EXPECT_TRUE(mentions(thrown_error([] {
                         from_vector(Floats{1, 2}, {3});
                       }),
                       "from_vector: shape [3] needs 3 values, got 2"));
  EXPECT_TRUE(mentions(thrown_error([] { empty({2, -1}, DType::float32); }), "negative extent"));
  EXPECT_EQ(thrown_error([] { static_cast<void>(Tensor().address()); }).code(), ExitCode::internal);
  if (has_cuda) return;
  EXPECT_TRUE(mentions(thrown_error([] {
                         empty({1}, DType::float32, {DeviceType::cuda, 0});
                       }),
                       "no cuda:0 memory"));
}

}  // namespace
}  // namespace tern::test
