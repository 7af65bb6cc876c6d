#include "tern/device.h"

#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>

#include <gtest/gtest.h>

#include "base/parallel.h"
#include "support/thrown_error.h"

namespace tern::test {
namespace {

TEST(DType, names_and_sizes) {
  EXPECT_EQ(name(DType::bfloat16), "bfloat16");
  EXPECT_EQ(size_of(DType::float64), 8);
  EXPECT_EQ(size_of(DType::uint16), 2);
  EXPECT_TRUE(is_floating(DType::float32) && is_floating(DType::float64) && is_floating(DType::bfloat16));
  EXPECT_FALSE(is_floating(DType::uint8) || is_floating(DType::int64));
  EXPECT_EQ(to_text(DType::int32), "int32");
  EXPECT_EQ(to_text(Device{}), "cpu");
  EXPECT_EQ(to_text(Device{DeviceType::cuda, 1}), "cuda:1");
}

TEST(Bfloat16, rounds_to_nearest_and_ties_to_even) {
  EXPECT_EQ(to_float(to_bfloat16(1.0f)), 1.0f);
  EXPECT_EQ(to_float(to_bfloat16(1.0f + 0x1p-8f)), 1.0f);
  EXPECT_EQ(to_float(to_bfloat16(1.0f + 3 * 0x1p-8f)), 1.0f + 4 * 0x1p-8f);
  EXPECT_EQ(to_float(to_bfloat16(1.0f + 0x1p-8f + 0x1p-20f)), 1.0f + 0x1p-7f);
  EXPECT_EQ(to_float(to_bfloat16(-2.5f)), -2.5f);
  EXPECT_EQ(to_float(to_bfloat16(std::numeric_limits<float>::max())), std::numeric_limits<float>::infinity());
  EXPECT_EQ(to_float(to_bfloat16(-std::numeric_limits<float>::infinity())),
            -std::numeric_limits<float>::infinity());
}

TEST(Bfloat16, keeps_nan) {
  EXPECT_TRUE(std::isnan(to_float(to_bfloat16(std::nanf("")))));
  EXPECT_TRUE(std::isnan(to_float(to_bfloat16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isnan(to_float(to_bfloat16(std::bit_cast<float>(0xffffffffu)))));
}

TEST(Bfloat16, every_pattern_survives_a_round_trip) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = to_float({static_cast<std::uint16_t>(bits)});
    ASSERT_TRUE(std::isnan(value) || to_bfloat16(value).bits == bits);
  }
}

TEST(Isa, names_and_the_choice_by_environment) {
  EXPECT_EQ(name(Isa::v2), "v2");
  EXPECT_EQ(name(Isa::v4), "v4");
  const char* asked = std::getenv("TERN_CPU_ISA");
  EXPECT_LE(name(cpu_isa()), std::string_view(asked ? asked : "v4"));
}

/// In a process of its own: the choice is made once.
TEST(Isa, refuses_an_unknown_name) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        setenv("TERN_CPU_ISA", "v9", 1);
        const Error error = thrown_error([] { cpu_isa(); });
        std::exit(error.code() == ExitCode::bad_config && mentions(error, "got v9") ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

TEST(Threads, zero_means_all_cores_and_negative_is_refused) {
  const int before = threads();
  set_threads(3);
  EXPECT_EQ(threads(), 3);
  set_threads(0);
  EXPECT_GE(threads(), 1);
  EXPECT_TRUE(mentions(thrown_error([] { set_threads(-1); }), "run.threads"));
  set_threads(before);
}

TEST(ParallelFor, visits_each_index_once) {
  const int before = threads();
  set_threads(3);
  for (const std::int64_t count : {0, 1, 7, 1000})
    for (const std::int64_t grain : {1, 8, 2000}) {
      std::vector<int> visits(static_cast<std::size_t>(count), 0);
      parallel_for(count, grain, [&](std::int64_t i) { ++visits[static_cast<std::size_t>(i)]; });
      EXPECT_EQ(visits, std::vector<int>(static_cast<std::size_t>(count), 1));
    }
  set_threads(before);
}

}  // namespace
}  // namespace tern::test
