#include "io/safetensors.h"

#include <bit>
#include <cstring>

#include <gtest/gtest.h>

#include "support/temporary_folder.h"
#include "support/thrown_error.h"

namespace tern::io {
namespace {

using test::mentions;
using test::read_bytes;
using test::TemporaryFolder;
using test::thrown_error;
using test::write_bytes;

std::string number_bytes(std::uint64_t number) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &number, 8);
  return bytes;
}

std::string file_bytes(const std::string& header, std::size_t data_bytes) {
  return number_bytes(header.size()) + header + std::string(data_bytes, 'd');
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets +
         "}";
}

struct Example {
  std::vector<float> weight{1.5f, -2, 3, 4, 5, 6};
  std::vector<double> moment{0.25, -1e300};
  std::vector<std::uint8_t> flags{1, 2, 3};
  std::vector<std::int64_t> steps{-7};
  std::vector<std::uint16_t> codes{65535};
  std::vector<std::int32_t> ids{-1, 2};

  std::vector<TensorRecord> records() const {
    return {{"b.weight", DType::float32, {2, 3}, std::as_bytes(std::span(weight))},
            {"flags", DType::uint8, {3}, std::as_bytes(std::span(flags))},
            {"codes", DType::bfloat16, {1, 1}, std::as_bytes(std::span(codes))},
            {"codes16", DType::uint16, {1}, std::as_bytes(std::span(codes))},
            {"moment", DType::float64, {2}, std::as_bytes(std::span(moment))},
            {"ids", DType::int32, {2}, std::as_bytes(std::span(ids))},
            {"empty", DType::float32, {0, 5}, {}},
            {"steps", DType::int64, {}, std::as_bytes(std::span(steps))}};
  }
};

TEST(safetensors, round_trip_keeps_every_type_shape_and_byte) {
  TemporaryFolder folder;
  const Example example;
  const Metadata metadata{{"format", "tern"}, {"näme", "line\nbreak \"quoted\""}};
  const WrittenFile written = write_safetensors(folder / "x", example.records(), metadata);
  EXPECT_EQ(written.hash, hash_of_file(folder / "x"));
  EXPECT_EQ(written.size, static_cast<std::int64_t>(std::filesystem::file_size(folder / "x")));
  const SafetensorsFile file(folder / "x");
  EXPECT_EQ(file.metadata(), metadata);
  ASSERT_EQ(file.tensors().size(), example.records().size());
  for (const TensorRecord& expected : example.records()) {
    const TensorRecord& read = file.at(expected.name);
    EXPECT_EQ(read.dtype, expected.dtype);
    EXPECT_EQ(read.shape, expected.shape);
    ASSERT_EQ(read.bytes.size(), expected.bytes.size());
    EXPECT_TRUE(std::equal(read.bytes.begin(), read.bytes.end(), expected.bytes.begin())) << expected.name;
    const std::size_t width = size_of(read.dtype);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(read.bytes.data()) % width, 0u) << expected.name;
  }
  EXPECT_EQ(file.find("none"), nullptr);
  EXPECT_EQ(thrown_error([&] { file.at("none"); }).code(), ExitCode::bad_data);
}

TEST(safetensors, equal_contents_give_equal_files) {
  TemporaryFolder folder;
  const Example example;
  std::vector<TensorRecord> records = example.records();
  write_safetensors(folder / "x", records);
  std::reverse(records.begin(), records.end());
  write_safetensors(folder / "y", records);
  EXPECT_EQ(read_bytes(folder / "x"), read_bytes(folder / "y"));
}

TEST(safetensors, the_file_follows_the_format_to_the_byte) {
  TemporaryFolder folder;
  const std::vector<float> values{1, 2};
  const std::vector<TensorRecord> records{{"w", DType::float32, {2}, std::as_bytes(std::span(values))}};
  write_safetensors(folder / "x", records, {{"k", "v"}});
  std::string header = R"({"__metadata__":{"k":"v"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  header.append((8 - header.size() % 8) % 8, ' ');
  EXPECT_EQ(read_bytes(folder / "x"),
            number_bytes(header.size()) + header + std::string("\0\0\x80\x3f\0\0\0\x40", 8));
  write_safetensors(folder / "none", {});
  EXPECT_EQ(read_bytes(folder / "none"), number_bytes(8) + "{}      ");
  EXPECT_TRUE(SafetensorsFile(folder / "none").tensors().empty());
}

TEST(safetensors, writer_refuses_what_readers_would_refuse) {
  TemporaryFolder folder;
  const std::vector<float> values{1, 2};
  const auto bytes = std::as_bytes(std::span(values));
  const auto refuse = [&](std::vector<TensorRecord> records) {
    EXPECT_EQ(thrown_error([&] { write_safetensors(folder / "x", records); }).code(), ExitCode::failed);
  };
  refuse({{"a", DType::float32, {2}, bytes}, {"a", DType::float32, {2}, bytes}});
  refuse({{"a", DType::float32, {3}, bytes}});
  refuse({{"a", DType::float64, {2}, bytes}});
  refuse({{"a", DType::float32, {-2}, bytes}});
  refuse({{"a", DType::float32, {INT64_MAX, INT64_MAX}, bytes}});
  refuse({{"", DType::float32, {2}, bytes}});
  refuse({{"a\nb", DType::float32, {2}, bytes}});
  refuse({{"__metadata__", DType::float32, {2}, bytes}});
  refuse({{std::string(1025, 'a'), DType::float32, {2}, bytes}});
  const std::vector<TensorRecord> bad_text{{"\xff", DType::float32, {2}, bytes}};
  EXPECT_EQ(thrown_error([&] { write_safetensors(folder / "x", bad_text); }).code(), ExitCode::bad_data);
  EXPECT_EQ(folder.entries(), 0);
}

struct BadFile {
  std::string bytes, says;
};

std::string with(const std::string& entries, std::size_t data_bytes) {
  return file_bytes("{" + entries + "}", data_bytes);
}

std::vector<BadFile> files_with_bad_frames() {
  const std::string good = with(entry("a", "F32", "[2]", "[0,8]"), 8);
  std::string longer = good, shorter = good;
  longer[0] = static_cast<char>(longer[0] + 1);
  shorter[0] = static_cast<char>(shorter[0] - 1);
  return {{"", "at least 8 bytes"},
          {"1234567", "at least 8 bytes"},
          {number_bytes(0), "opening brace"},
          {number_bytes(0) + "{}", "opening brace"},
          {number_bytes(1) + "{", "JSON"},
          {number_bytes(2) + "[]", "opening brace"},
          {number_bytes(3) + " {}", "opening brace"},
          {number_bytes(5) + "\xef\xbb\xbf{}", "opening brace"},
          {number_bytes(3) + "{}", "must fit the file"},
          {number_bytes(9) + "{}", "must fit the file"},
          {number_bytes(std::uint64_t{1} << 63) + "{}", "at most"},
          {number_bytes(UINT64_MAX) + "{}", "at most"},
          {number_bytes(UINT64_MAX - 7) + "{}", "at most"},
          {number_bytes((16u << 20) + 1) + "{}", "at most"},
          {number_bytes(16u << 20) + "{}", "must fit the file"},
          {number_bytes(2) + "{}x", "1 more bytes"},
          {good + std::string("\x80\x04K.", 4), "4 more bytes"},
          {good.substr(0, good.size() - 1), "inside the 7 bytes"},
          {good.substr(0, good.size() - 8), "inside the 0 bytes"},
          {longer, "JSON"},
          {shorter, "JSON"},
          {file_bytes("{\"a\":" + std::string(5000, '[') + std::string(5000, ']') + "}", 0), "levels"},
          {file_bytes(std::string("{\0}", 3), 0), "JSON"},
          {file_bytes("{} {}", 0), "JSON"}};
}

std::vector<BadFile> files_with_bad_entries() {
  return {
      {with(entry("a", "F32", "[2]", "[0,8]") + "," + entry("a", "F32", "[2]", "[0,8]"), 8), "repeat"},
      {with(entry("a", "F32", "[2]", "[0,8]") + "," + entry("\\u0061", "F32", "[2]", "[8,16]"), 16), "repeat"},
      {with("\"a\":1", 0), "exactly dtype"},
      {with("\"a\":{}", 0), "exactly dtype"},
      {with("\"a\":{\"dtype\":\"U8\",\"shape\":[1]}", 1), "exactly dtype"},
      {with("\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":0}", 1), "exactly dtype"},
      {with("\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}", 1), "repeat"},
      {with("\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,1]}", 1), "the type of a"},
      {with(entry("a", "F16", "[4]", "[0,8]"), 8), "the type of a"},
      {with(entry("a", "f32", "[2]", "[0,8]"), 8), "the type of a"},
      {with(entry("a", "", "[2]", "[0,8]"), 8), "the type of a"},
      {with(entry("a", "F32", "2", "[0,8]"), 8), "must be an array"},
      {with(entry("a", "F32", "[\"2\"]", "[0,8]"), 8), "integers"},
      {with(entry("a", "F32", "[2.0]", "[0,8]"), 8), "integers"},
      {with(entry("a", "F32", "[-2]", "[0,8]"), 8), "integers"},
      {with(entry("a", "F32", "[18446744073709551618]", "[0,8]"), 8), "integers"},
      {with(entry("a", "F32", "[9223372036854775808]", "[0,8]"), 8), "integers"},
      {with(entry("a", "F32", "[3]", "[0,8]"), 8), "must fill its span"},
      {with(entry("a", "F32", "[1]", "[0,8]"), 8), "must fill its span"},
      {with(entry("a", "F32", "[]", "[0,8]"), 8), "must fill its span"},
      {with(entry("a", "F32", "[1000000000,1000000000]", "[0,8]"), 8), "must fill its span"},
      {with(entry("a", "F32", "[4294967296,4294967296,2]", "[0,0]"), 0), "must fill its span"},
      {with(entry("a", "F32", "[4611686018427387904]", "[0,0]"), 0), "must fill its span"},
      {with(entry("a", "U8", "[4294967296,4294967296,0]", "[0,0]"), 0), "must fill its span"}};
}

std::vector<BadFile> files_with_bad_spans_and_names() {
  const std::string first = entry("a", "F32", "[2]", "[0,8]");
  return {{with(entry("a", "F32", "[2]", "[8,0]"), 8), "must be a span"},
          {with(entry("a", "F32", "[2]", "[0,8,8]"), 8), "must be a span"},
          {with(entry("a", "F32", "[2]", "[8]"), 8), "must be a span"},
          {with(entry("a", "F32", "[2]", "[-8,0]"), 8), "integers"},
          {with(entry("a", "F32", "[2]", "\"0,8\""), 8), "must be an array"},
          {with(entry("a", "F32", "[2]", "[9223372036854775800,9223372036854775807]"), 8), "must be a span"},
          {with(entry("a", "F32", "[4]", "[0,16]"), 8), "inside the 8 bytes"},
          {with(entry("a", "F32", "[2]", "[1,9]"), 9), "must begin where"},
          {with(first + "," + entry("b", "F32", "[2]", "[9,17]"), 17), "must begin where"},
          {with(first + "," + entry("b", "F32", "[2]", "[4,12]"), 12), "must begin where"},
          {with(first + "," + entry("b", "F32", "[2]", "[0,8]"), 8), "must begin where"},
          {with(first + "," + entry("b", "F32", "[0]", "[4,4]"), 8), "must begin where"},
          {with(first + "," + entry("b", "F32", "[2]", "[8,16]"), 24), "8 more bytes"},
          {with(entry("", "F32", "[2]", "[0,8]"), 8), "printable"},
          {with(entry("a\\nb", "F32", "[2]", "[0,8]"), 8), "printable"},
          {with(entry("a\\u0000", "F32", "[2]", "[0,8]"), 8), "printable"},
          {with(entry("\\u007f", "F32", "[2]", "[0,8]"), 8), "printable"},
          {with(entry("\\u0085", "F32", "[2]", "[0,8]"), 8), "printable"},
          {with(entry(std::string(1025, 'a'), "F32", "[2]", "[0,8]"), 8), "printable"},
          {with(entry("\xff", "F32", "[2]", "[0,8]"), 8), "JSON"},
          {with(entry("\xed\xa0\x80", "F32", "[2]", "[0,8]"), 8), "JSON"},
          {with("\"__metadata__\":1", 0), "object of strings"},
          {with("\"__metadata__\":{\"a\":1}", 0), "strings only"},
          {with("\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}", 0), "repeat"},
          {with("\"__metadata__\":{},\"__metadata__\":{}", 0), "repeat"}};
}

TEST(safetensors, crafted_bad_files_are_refused_with_file_and_reason) {
  TemporaryFolder folder;
  std::vector<BadFile> all = files_with_bad_frames();
  for (const auto& more : {files_with_bad_entries(), files_with_bad_spans_and_names()}) {
    all.insert(all.end(), more.begin(), more.end());
  }
  ASSERT_GE(all.size(), 60u);
  for (std::size_t i = 0; i < all.size(); ++i) {
    SCOPED_TRACE("file " + std::to_string(i) + ": " + all[i].bytes.substr(0, 200));
    write_bytes(folder / "bad", all[i].bytes);
    const Error error = thrown_error([&] { SafetensorsFile(folder / "bad"); });
    EXPECT_EQ(error.code(), ExitCode::bad_data);
    EXPECT_TRUE(mentions(error, (folder / "bad").string())) << error.what();
    EXPECT_TRUE(mentions(error, all[i].says)) << error.what();
  }
}

TEST(safetensors, unusual_but_valid_files_are_read) {
  TemporaryFolder folder;
  const auto read = [&](const std::string& bytes) {
    write_bytes(folder / "x", bytes);
    return SafetensorsFile(folder / "x").tensors().size();
  };
  EXPECT_EQ(read(with("", 0)), 0u);
  EXPECT_EQ(read(with(entry("a", "F32", "[2]", "[0,8]"), 8)), 1u);
  EXPECT_EQ(read(with(entry("a", "F32", "[]", "[1,5]") + "," + entry("b", "U8", "[1]", "[0,1]"), 5)), 2u);
  EXPECT_EQ(read(with(entry("a", "F32", "[0]", "[8,8]") + "," + entry("b", "F64", "[1]", "[0,8]"), 8)), 2u);
  EXPECT_EQ(read(with(entry("a", "F32", "[0]", "[0,0]") + "," + entry("b", "F64", "[0,7]", "[0,0]"), 0)), 2u);
  EXPECT_EQ(read(with(entry(std::string(1024, 'a'), "U8", "[1]", "[0,1]"), 1)), 1u);
  EXPECT_EQ(read(with(entry("\xc3\xa9\xe2\x82\xac", "U8", "[1]", "[0,1]"), 1)), 1u);
}

TEST(safetensors, every_truncation_is_refused) {
  TemporaryFolder folder;
  write_safetensors(folder / "cut", Example().records());
  const std::size_t whole = read_bytes(folder / "cut").size();
  ASSERT_GT(whole, 500u);
  for (std::size_t size = whole; size-- > 0;) {
    std::filesystem::resize_file(folder / "cut", size);
    ASSERT_EQ(thrown_error([&] { SafetensorsFile(folder / "cut"); }).code(), ExitCode::bad_data) << size;
  }
}

TEST(safetensors, a_missing_file_is_named) {
  TemporaryFolder folder;
  EXPECT_EQ(thrown_error([&] { SafetensorsFile(folder / "none"); }).code(), ExitCode::missing_input);
}

}  // namespace
}  // namespace tern::io
