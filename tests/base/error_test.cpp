#include "tern/error.h"

#include <gtest/gtest.h>

#include "support/thrown_error.h"

namespace tern::test {
namespace {

enum class Plain { first = 3 };

TEST(Error, texts_fill_their_places_in_order) {
  EXPECT_EQ(format_text("{} and {}", 1, "two"), "1 and two");
  EXPECT_EQ(format_text("no places"), "no places");
  EXPECT_EQ(format_text("a value may hold {}: {}", std::string("{}"), 2.5), "a value may hold {}: 2.5");
  EXPECT_EQ(format_text("{}, {}, {}", true, std::vector{1, 2}, Plain::first), "true, [1, 2], 3");
  EXPECT_EQ(format_text("{}", std::filesystem::path("/a b")), "/a b");
  EXPECT_EQ(format_text("{}", std::vector<int>{}), "[]");
}

TEST(Error, require_blames_the_caller) {
  EXPECT_NO_THROW(require(true, "never {}", 1));
  const Error error = thrown_error([] { require(false, "op: must be {}, got {}", 1, 2); });
  EXPECT_STREQ(error.what(), "op: must be 1, got 2");
  EXPECT_EQ(error.code(), ExitCode::failed);
}

TEST(Error, ensure_blames_us_and_names_the_line) {
  const Error error = thrown_error([] { ensure(false, "state {}", 7); });
  EXPECT_EQ(error.code(), ExitCode::internal);
  EXPECT_TRUE(mentions(error, "error_test.cpp:"));
  EXPECT_TRUE(mentions(error, "state 7; please report this"));
}

TEST(Error, codes_are_carried) {
  EXPECT_EQ(thrown_error([] { throw_error(ExitCode::bad_data, "record {}", 3); }).code(), ExitCode::bad_data);
}

TEST(Error, context_is_added_while_unwinding_and_only_then) {
  int asked = 0;
  const auto where = [&] { return ++asked, std::string("step 3"); };
  EXPECT_EQ(with_context(where, [] { return 5; }), 5);
  EXPECT_EQ(asked, 0);
  const Error error = thrown_error([&] {
    with_context([] { return "rank 1"; }, [&] { with_context(where, [] { require(false, "inner"); }); });
  });
  EXPECT_STREQ(error.what(), "inner\n  in step 3\n  in rank 1");
  EXPECT_EQ(asked, 1);
}

}  // namespace
}  // namespace tern::test
