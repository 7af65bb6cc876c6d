#include "io/json.h"

#include <gtest/gtest.h>

#include "support/thrown_error.h"

namespace tern::io {
namespace {

using test::mentions;
using test::thrown_error;

TEST(json, keeps_order_and_values) {
  const std::string text = R"({"b":1,"a":[true,null,-2,2.5,"é\n"],"c":{"z":{},"y":18446744073709551615}})";
  const Json value = parse_json(text, "text");
  EXPECT_EQ(dump_json(value), text);
  EXPECT_EQ(value["a"][3].get<double>(), 2.5);
  EXPECT_EQ(value["c"]["y"].get<std::uint64_t>(), UINT64_MAX);
  EXPECT_EQ(parse_json("3", "text").get<int>(), 3);
}

TEST(json, refuses_malformed_text_and_names_the_byte) {
  struct Case {
    std::string text;
    std::string_view says;
  };
  const std::vector<Case> cases{{"", "byte 1"},
                                {"{\"a\":1", "byte 7"},
                                {"{\"a\":1}x", "byte 8"},
                                {"{\"a\":1,}", "byte 8"},
                                {"[1,2,,3]", "byte 6"},
                                {"[01]", "byte 3"},
                                {"[NaN]", "byte 2"},
                                {"[1e999]", "byte 6"},
                                {"[\"\xff\"]", "byte 3"},
                                {"[\"\xc0\x80\"]", "byte"},
                                {"[\"\\ud800\"]", "byte"},
                                {"[\"a\nb\"]", "byte 4"},
                                {"{'a':1}", "byte 2"},
                                {"[1] // note", "byte 5"},
                                {"{\"a\":1,\"a\":2}", "before byte 10"},
                                {"{\"a\":{\"b\":1,\"c\":1,\"b\":1}}", "\"b\" again"},
                                {"{\"a\":1,\"\\u0061\":2}", "\"a\" again"}};
  for (const Case& bad : cases) {
    const Error error = thrown_error([&] { parse_json(bad.text, "some file"); });
    EXPECT_EQ(error.code(), ExitCode::bad_data);
    EXPECT_TRUE(mentions(error, "some file")) << error.what();
    EXPECT_TRUE(mentions(error, bad.says)) << bad.text << " -> " << error.what();
  }
  EXPECT_NO_THROW(parse_json(R"({"a":{"b":1},"c":{"b":1}})", "text"));
}

TEST(json, limits_depth_and_size) {
  const std::string deep64 = std::string(64, '[') + std::string(64, ']');
  EXPECT_NO_THROW(parse_json(deep64, "text"));
  EXPECT_TRUE(mentions(thrown_error([&] { parse_json("[" + deep64 + "]", "text"); }), "64 levels"));
  EXPECT_EQ(thrown_error([] { parse_json(std::string(1'000'000, '['), "text"); }).code(), ExitCode::bad_data);
  EXPECT_NO_THROW(parse_json("[1,2]", "text", 5));
  EXPECT_TRUE(mentions(thrown_error([] { parse_json("[1,23]", "text", 5); }), "at most 5 bytes"));
}

TEST(json, members_are_typed) {
  const Json value = parse_json(R"({"i":-3,"u":5,"big":18446744073709551615,"f":1.5,"s":"x"})", "text");
  EXPECT_EQ(json_integer(value, "i", "w"), -3);
  EXPECT_EQ(json_unsigned(value, "big", "w"), UINT64_MAX);
  EXPECT_EQ(json_number(value, "f", "w"), 1.5);
  EXPECT_EQ(json_number(value, "u", "w"), 5);
  EXPECT_EQ(json_string(value, "s", "w"), "x");
  EXPECT_THROW(json_integer(value, "f", "w"), Error);
  EXPECT_THROW(json_integer(value, "big", "w"), Error);
  EXPECT_THROW(json_unsigned(value, "i", "w"), Error);
  EXPECT_THROW(json_number(value, "s", "w"), Error);
  EXPECT_THROW(json_string(value, "u", "w"), Error);
  EXPECT_TRUE(mentions(thrown_error([&] { json_member(value, "none", "w"); }), "w: key none is missing"));
  EXPECT_THROW(json_member(value["i"], "i", "w"), Error);
}

TEST(json, dump_refuses_bytes_that_are_not_text) {
  EXPECT_EQ(thrown_error([] { dump_json(Json("\xff")); }).code(), ExitCode::bad_data);
}

}  // namespace
}  // namespace tern::io
