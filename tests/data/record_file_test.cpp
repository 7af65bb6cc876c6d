#include "data/record_file.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>

#include <gtest/gtest.h>

#include "data/record_example.h"
#include "io/hash.h"
#include "support/temporary_folder.h"
#include "support/thrown_error.h"

namespace tern::data {
namespace {

using namespace tern::test;

void expect_round_trip(const RecordHeader& header) {
  TemporaryFolder folder;
  const RecordHeader written = write_example(folder / "x", 50, header);
  const RecordFile file(folder / "x");
  file.verify();
  ASSERT_EQ(file.count(), 50);
  std::int64_t tokens = 0, longest = 0;
  for (std::int64_t record = 0; record < 50; ++record) {
    for (int which = 0; which < header.sequences_per_record; ++which) {
      const Sequence expected = example_sequence(record, which, header.vocabulary, 40);
      ASSERT_EQ(to_sequence(file.tokens(record, which)), expected);
      tokens += static_cast<std::int64_t>(expected.size());
      longest = std::max(longest, static_cast<std::int64_t>(expected.size()));
    }
    const bool classes = header.label_kind == LabelKind::classes;
    const double label = classes ? static_cast<double>(file.label(record)) : double{file.target(record)};
    ASSERT_EQ(label, classes ? static_cast<double>(record % 7) : static_cast<double>(record) / 4);
  }
  ASSERT_GT(tokens, 500);
  EXPECT_EQ(file.header().tokens, tokens);
  EXPECT_EQ(file.header().longest, longest);
  EXPECT_EQ(written.tokens, tokens);
  EXPECT_EQ(file.header().options, header.options);
  EXPECT_EQ(file.header().task, "example");
  EXPECT_EQ(file.header().split, "train");
  EXPECT_EQ(file.header().seed, 5u);
  EXPECT_EQ(file.header().padded_length, 64);
  EXPECT_EQ(file.header().vocabulary, header.vocabulary);
}

TEST(record_file, round_trip_of_every_token_type_and_label_kind) {
  for (const DType type : {DType::uint8, DType::uint16, DType::int32}) {
    for (const int sequences : {1, 2}) {
      expect_round_trip(example_header(sequences, type, LabelKind::classes));
      expect_round_trip(example_header(sequences, type, LabelKind::target));
    }
  }
}

TEST(record_file, empty_splits_and_empty_sequences) {
  TemporaryFolder folder;
  write_example(folder / "none", 0, example_header());
  EXPECT_EQ(RecordFile(folder / "none").count(), 0);
  RecordWriter writer(folder / "x", example_header());
  writer.append(std::span<const std::uint8_t>(), 3);
  writer.finish();
  const RecordFile file(folder / "x");
  file.verify();
  EXPECT_EQ(file.tokens(0).size(), 0);
  EXPECT_EQ(file.label(0), 3);
}

TEST(record_file, equal_records_give_equal_files_and_nothing_shows_before_the_end) {
  TemporaryFolder folder;
  write_example(folder / "x", 30, example_header());
  write_example(folder / "y", 30, example_header());
  EXPECT_EQ(read_bytes(folder / "x"), read_bytes(folder / "y"));
  {
    RecordWriter writer(folder / "z", example_header());
    const std::vector<std::uint8_t> ids{1, 2, 3};
    writer.append(ids, 1);
    EXPECT_FALSE(std::filesystem::exists(folder / "z"));
  }
  EXPECT_EQ(folder.entries(), 2);
}

TEST(record_file, the_content_hash_is_of_the_records_alone) {
  TemporaryFolder folder;
  const RecordHeader header = example_header();
  RecordHeader other_source = header;
  other_source.options = R"({"sources": ["another archive"]})";
  write_example(folder / "x", 30, header);
  write_example(folder / "same", 30, other_source);
  write_example(folder / "more", 31, header);
  const io::Hash128 hash = RecordFile(folder / "x").content_hash();
  EXPECT_EQ(RecordFile(folder / "same").content_hash(), hash);
  EXPECT_NE(io::hash_of_file(folder / "same"), io::hash_of_file(folder / "x"));
  EXPECT_NE(RecordFile(folder / "more").content_hash(), hash);
  const auto hash_with = [&](const char* name, std::uint8_t id, std::int32_t label) {
    RecordWriter writer(folder / name, header);
    const std::vector<std::uint8_t> ids{1, 2, id};
    writer.append(ids, label);
    writer.finish();
    return RecordFile(folder / name).content_hash();
  };
  const io::Hash128 small = hash_with("small", 3, 1);
  EXPECT_NE(hash_with("id", 4, 1), small);
  EXPECT_NE(hash_with("label", 3, 2), small);
}

TEST(record_file, places_outside_are_refused) {
  TemporaryFolder folder;
  write_example(folder / "x", 3, example_header());
  const RecordFile file(folder / "x");
  EXPECT_EQ(thrown_error([&] { file.tokens(3); }).code(), ExitCode::failed);
  EXPECT_EQ(thrown_error([&] { file.tokens(-1); }).code(), ExitCode::failed);
  EXPECT_EQ(thrown_error([&] { file.tokens(0, 1); }).code(), ExitCode::failed);
  EXPECT_EQ(thrown_error([&] { file.label(3); }).code(), ExitCode::failed);
  EXPECT_EQ(thrown_error([&] { file.target(0); }).code(), ExitCode::failed);
  EXPECT_EQ(thrown_error([&] { RecordFile(folder / "none"); }).code(), ExitCode::missing_input);
}

/// What opening and verifying the file "bad" throws; nothing if it passes.
std::optional<Error> fault_of(const TemporaryFolder& folder) {
  try {
    RecordFile(folder / "bad").verify();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

std::optional<Error> fault_of(const TemporaryFolder& folder, std::string_view bytes) {
  write_bytes(folder / "bad", bytes);
  return fault_of(folder);
}

void expect_named(const std::optional<Error>& error, const TemporaryFolder& folder, const std::string& what) {
  ASSERT_TRUE(error.has_value()) << what;
  EXPECT_EQ(error->code(), ExitCode::bad_data) << what;
  EXPECT_TRUE(mentions(*error, (folder / "bad").string())) << error->what();
  EXPECT_TRUE(mentions(*error, "tern data prepare")) << error->what();
}

TEST(record_file, a_flipped_bit_anywhere_is_found) {
  TemporaryFolder folder;
  write_example(folder / "bad", 12, example_header());
  const std::string good = read_bytes(folder / "bad");
  ASSERT_FALSE(fault_of(folder).has_value());
  std::fstream file(folder / "bad", std::ios::in | std::ios::out | std::ios::binary);
  const auto put = [&](std::size_t at, int byte) {
    file.seekp(static_cast<std::streamoff>(at));
    file.put(static_cast<char>(byte));
    ASSERT_TRUE(file.flush());
  };
  std::size_t found = 0, tried = 0;
  // Every byte of header and sections; of the zeros behind the header (bytes 400 ... 4095) one in 16.
  for (std::size_t at = 0; at < good.size(); at += at >= 400 && at < 4096 ? 16 : 1, ++tried) {
    put(at, good[at] ^ (1 << (at % 8)));
    const std::optional<Error> error = fault_of(folder);
    found += error.has_value();
    expect_named(error, folder, "byte " + std::to_string(at));
    put(at, good[at]);
  }
  EXPECT_GT(tried, 900u);
  EXPECT_EQ(found, tried);
  EXPECT_FALSE(fault_of(folder).has_value());
}

TEST(record_file, truncations_and_additions_are_found) {
  TemporaryFolder folder;
  write_example(folder / "bad", 12, example_header());
  const std::string good = read_bytes(folder / "bad");
  for (std::size_t size = good.size(); size > 0;) {
    size -= size > 400 && size <= 4096 ? 16 : 1;
    std::filesystem::resize_file(folder / "bad", size);
    expect_named(fault_of(folder), folder, "size " + std::to_string(size));
  }
  expect_named(fault_of(folder, good + "x"), folder, "one byte more");
  expect_named(fault_of(folder, std::string(good.size(), '\0')), folder, "zeros");
  const std::optional<Error> cut = fault_of(folder, std::string_view(good).substr(0, 4096 + 10));
  ASSERT_TRUE(cut.has_value());
  EXPECT_TRUE(mentions(*cut, "tokens section")) << cut->what();
}

/// Replaces a section's bytes and renews its hash: damage that only a careless program can do.
std::string forged(std::string bytes, Section section, std::size_t at, std::string_view replacement) {
  const auto hash_at = [&](std::size_t index) { return bytes.size() - 64 + 16 * index; };
  RecordHeader header;
  std::uint32_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data() + 12, 4);
  header = parse_header(std::string_view(bytes).substr(16, header_bytes), "forged");
  const Extent extent = lay_out(header, header_bytes).sections[static_cast<std::size_t>(section)];
  bytes.replace(static_cast<std::size_t>(extent.begin) + at, replacement.size(), replacement);
  const auto view = std::as_bytes(std::span(bytes));
  const auto hash = io::to_bytes(io::hash_of(
      view.subspan(static_cast<std::size_t>(extent.begin), static_cast<std::size_t>(extent.bytes))));
  std::memcpy(bytes.data() + hash_at(static_cast<std::size_t>(section)), hash.data(), 16);
  return bytes;
}

TEST(record_file, ids_labels_and_offsets_out_of_range_are_named_even_with_a_right_checksum) {
  TemporaryFolder folder;
  write_example(folder / "x", 12, example_header());
  const std::string good = read_bytes(folder / "x");
  const auto check = [&](Section section, std::size_t at, std::string_view bytes, std::string_view says) {
    const std::optional<Error> error = fault_of(folder, forged(good, section, at, bytes));
    expect_named(error, folder, std::string(says));
    ASSERT_TRUE(error.has_value());
    EXPECT_TRUE(mentions(*error, says)) << error->what();
  };
  const std::size_t first = example_sequence(0, 0, 200, 40).size();
  check(Section::tokens, first, "\xc8", "ids of record 1");
  check(Section::labels, 4 * 5, std::string_view("\x07\0\0\0", 4), "label of record 5");
  check(Section::labels, 4 * 5, "\xff\xff\xff\xff", "label of record 5");
  check(Section::offsets, 8 * 2, "\xff\xff\xff\xff\xff\xff\xff\xff", "offsets");
  check(Section::offsets, 0, std::string_view("\1\0\0\0\0\0\0\0", 8), "offsets");
  check(Section::front, 8, std::string_view("\2\0\0\0", 4), "version 1, got 2");
}

TEST(record_file, headers_that_lie_about_sizes_are_refused) {
  TemporaryFolder folder;
  write_example(folder / "x", 12, example_header());
  const std::string good = read_bytes(folder / "x");
  const std::vector<std::pair<std::string, std::string>> lies{
      {"\"records\":12", "\"records\":13"},
      {"\"records\":12", "\"records\":-2"},
      {"\"records\":12", "\"records\":1.2"},
      {"\"records\":12,", "\"records\":9e9"},
      {"\"token_type\":\"uint8\"", "\"token_type\":\"uint9\""},
      {"\"label_kind\":\"classes\"", "\"label_kind\":\"xlasses\""},
      {"\"classes\":7", "\"classes\":0"},
      {"\"vocabulary\":200", "\"vocabulary\":300"},
      {"\"sequences_per_record\":1", "\"sequences_per_record\":2"},
      {"\"sequences_per_record\":1", "\"sequences_per_record\":9"},
      {"\"task\"", "\"tasc\""},
      {"\"seed\":5", "\"seed\":x"},
      {"\"split\":\"train\"", "\"split\":1234567"}};
  for (const auto& [from, to] : lies) {
    std::string bad = good;
    const std::size_t at = bad.find(from);
    ASSERT_NE(at, bad.npos) << from;
    bad.replace(at, to.size(), to);
    expect_named(fault_of(folder, bad), folder, to);
  }
}

TEST(record_writer, refuses_ids_labels_and_headers_out_of_range) {
  TemporaryFolder folder;
  RecordWriter writer(folder / "x", example_header());
  const Sequence good{1, 199, 0}, high{1, 200}, negative{-1};
  const auto append = [&](const Sequence& ids, std::int32_t label) {
    const std::vector<std::span<const std::int32_t>> views{ids};
    writer.append(views, label);
  };
  append(good, 6);
  EXPECT_TRUE(mentions(thrown_error([&] { append(high, 0); }), "record 1"));
  EXPECT_EQ(thrown_error([&] { append(negative, 0); }).code(), ExitCode::bad_data);
  EXPECT_EQ(thrown_error([&] { append(good, 7); }).code(), ExitCode::bad_data);
  EXPECT_EQ(thrown_error([&] { append(good, -1); }).code(), ExitCode::bad_data);
  const std::vector<std::span<const std::int32_t>> pair{good, good};
  EXPECT_EQ(thrown_error([&] { writer.append(pair, 0); }).code(), ExitCode::failed);
  EXPECT_EQ(thrown_error([&] { writer.append(std::span(pair).first(1), 0.5f); }).code(), ExitCode::failed);
  const std::vector<std::uint8_t> bytes{200};
  EXPECT_EQ(thrown_error([&] { writer.append(bytes, 0); }).code(), ExitCode::bad_data);

  RecordHeader header = example_header();
  header.vocabulary = 257;
  EXPECT_EQ(thrown_error([&] { RecordWriter(folder / "y", header); }).code(), ExitCode::failed);
  header = example_header(3);
  EXPECT_EQ(thrown_error([&] { RecordWriter(folder / "y", header); }).code(), ExitCode::failed);
  header = example_header(1, DType::float32);
  EXPECT_EQ(thrown_error([&] { RecordWriter(folder / "y", header); }).code(), ExitCode::failed);
  RecordWriter targets(folder / "y", example_header(1, DType::uint8, LabelKind::target));
  const std::vector<std::span<const std::int32_t>> views{good};
  EXPECT_EQ(thrown_error([&] { targets.append(views, std::numeric_limits<float>::quiet_NaN()); }).code(),
            ExitCode::bad_data);
}

}  // namespace
}  // namespace tern::data
