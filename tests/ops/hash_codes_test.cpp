#include "ops/hashing_sample.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

TEST(HashCodes, have_their_shape_type_and_range) {
  const Sample in = sample_of({5, 0, 3}, 7);
  for (const int bits : {1, 9, 16, 17, 20}) {
    const Tensor codes = hash_codes(in.qkv[0], in.layout, {HashFamily::gaussian, 3, bits}, test_stream(1));
    EXPECT_EQ(codes.shape(), (Shape{2, 3, 8}));
    EXPECT_EQ(codes.dtype(), bits <= 16 ? DType::uint16 : DType::int32);
    std::int64_t largest = 0;
    for (const std::int32_t code : cast(codes, DType::int32).to_vector<std::int32_t>()) {
      EXPECT_TRUE(code >= 0 && code < 1 << bits);
      largest = std::max<std::int64_t>(largest, code);
    }
    EXPECT_GE(largest, (1 << bits) / 4) << "the high bits are never used";
  }
}

TEST(HashCodes, do_not_depend_on_the_scale_or_the_packing) {
  const Sample in = sample_of({5, 9}, 12);
  for (const HashFamily family : {HashFamily::gaussian, HashFamily::interleaved, HashFamily::hadamard}) {
    const HashOptions options{family, 4, 6};
    const auto codes = hash_codes(in.qkv[0], in.layout, options, test_stream(2)).to_vector<std::uint16_t>();
    EXPECT_EQ(hash_codes(affine(in.qkv[0], 3.5), in.layout, options, test_stream(2)).to_vector<std::uint16_t>(),
              codes);
    const SequenceLayout alone =
        make_layout({0, 9}, slice(in.layout.position, 0, 5, 9).to_vector<std::int32_t>(), {41}, 200);
    const auto second =
        hash_codes(slice(in.qkv[0], 0, 5, 9), alone, options, test_stream(2)).to_vector<std::uint16_t>();
    for (std::size_t row = 0; row < 8; ++row)
      for (std::size_t token = 0; token < 9; ++token)
        EXPECT_EQ(second[row * 9 + token], codes[row * 14 + 5 + token]);
  }
}

/// float32 rows have the CPU's codes on CUDA, but where a projection is within rounding of 0.
TEST(HashCodes, are_those_of_the_cpu_on_cuda) {
  for (const Place& place : places()) {
    if (place.dtype == DType::bfloat16) continue;
    for (const HashFamily family : {HashFamily::gaussian, HashFamily::interleaved, HashFamily::hadamard})
      for (const std::int64_t width : {9, 32, 64}) {
        const HashOptions options{family, 16, 11};
        const Sample here = sample_of({150, 0, 70}, width, place.dtype, place.device),
                     there = sample_of({150, 0, 70}, width, place.dtype);
        const auto a = hash_codes(here.qkv[0], here.layout, options, on(here.qkv[0], test_stream(2)))
                           .to_vector<std::uint16_t>(),
                   b = hash_codes(there.qkv[0], there.layout, options, test_stream(2))
                           .to_vector<std::uint16_t>();
        ASSERT_EQ(a.size(), b.size());
        std::size_t differing = 0;
        for (std::size_t i = 0; i < a.size(); ++i) differing += a[i] != b[i];
        EXPECT_LE(differing, place.dtype == DType::float64 ? 0u : a.size() / 10000) << width;
      }
  }
}

/// Codes of bfloat16 rows must be those of the same rows in float32 on the CPU, but where a projection is
/// within rounding of 0.
void expect_the_codes_of_the_cpu(const std::vector<int>& lengths, std::int64_t width,
                                 const HashOptions& options) {
  const Sample here = sample_of(lengths, width, DType::bfloat16, {DeviceType::cuda, 0}),
               there = sample_of(lengths, width, DType::bfloat16);
  const auto codes = [&](const Sample& in, const Tensor& x) {
    return cast(hash_codes(x, in.layout, options, on(x, test_stream(2))), DType::int32)
        .to_vector<std::int32_t>();
  };
  const auto a = codes(here, here.qkv[0]), b = codes(there, cast(there.qkv[0], DType::float32));
  ASSERT_EQ(a.size(), b.size());
  std::size_t differing = 0;
  for (std::size_t i = 0; i < a.size(); ++i) differing += a[i] != b[i];
  EXPECT_LE(differing, a.size() / 10000 + 1)
      << width << " columns, " << options.hashes << " x " << options.bits;
}

/// Whole and partial groups of hashes and steps of the depth, sequences shorter and longer than a block's rows,
/// tokens in and out of step with 16-byte stores.
TEST(HashCodes, bfloat16_rows_have_the_codes_of_their_values_on_cuda) {
  if (cuda_devices() == 0) GTEST_SKIP() << cuda_description();
  const std::vector<std::vector<int>> batches{{150, 0, 70}, {1100, 37, 523, 4}};
  for (const std::vector<int>& lengths : batches)
    for (const std::int64_t width : {8, 24, 30, 32, 56, 64, 128})
      for (const auto& [hashes, bits] : {std::pair{1, 7}, std::pair{16, 3}, std::pair{21, 9}, std::pair{30, 11},
                                         std::pair{32, 14}, std::pair{38, 16}, std::pair{5, 18}})
        expect_the_codes_of_the_cpu(lengths, width, {HashFamily::gaussian, hashes, bits});
}

/// Rotations of 32 and 64 columns go through products in one part, of 128 in two.
TEST(HashCodes, bfloat16_rows_have_the_rotated_codes_of_their_values_on_cuda) {
  if (cuda_devices() == 0) GTEST_SKIP() << cuda_description();
  for (const HashFamily family : {HashFamily::interleaved, HashFamily::hadamard})
    for (const std::int64_t width : {24, 30, 32, 64, 100, 128})
      for (const auto& [hashes, bits] :
           {std::pair{3, 7}, std::pair{32, 10}, std::pair{30, 12}, std::pair{32, 14}, std::pair{5, 18}})
        expect_the_codes_of_the_cpu({1100, 37, 523, 4}, width, {family, hashes, bits});
}

/// Rows that lie on 16 bytes take other kernels than those that do not; the codes are the same, 0 for rows of
/// zeros.
TEST(HashCodes, do_not_depend_on_the_place_of_rows_on_cuda) {
  if (cuda_devices() == 0) GTEST_SKIP() << cuda_description();
  constexpr int spare = 2;
  for (const std::int64_t width : {32, 64})
    for (const auto& [hashes, bits] : {std::pair{16, 12}, std::pair{32, 12}, std::pair{20, 14},
                                       std::pair{30, 16}, std::pair{32, 10}, std::pair{70, 11}}) {
      const Sample in = sample_of({4001, 3, 700, 0, 64}, spare + width, DType::bfloat16, {DeviceType::cuda, 0});
      const HashOptions options{HashFamily::gaussian, hashes, bits};
      const auto codes = [&](const Tensor& x) {
        return hash_codes(x, in.layout, options, on(x, test_stream(2))).to_vector<std::uint16_t>();
      };
      const Tensor apart = slice(in.qkv[0], 2, spare, width);
      const Tensor packed = empty(apart.shape(), DType::bfloat16, apart.device());
      copy(apart, packed);
      EXPECT_EQ(codes(apart), codes(packed)) << width << " columns, " << hashes << " x " << bits;
      const Tensor zeros = tensor_of(Array(apart.shape()), DType::bfloat16, apart.device());
      for (const std::uint16_t code : codes(zeros)) ASSERT_EQ(code, 0) << width << " columns";
    }
}

}  // namespace
}  // namespace tern::test
