#include "io/table.h"

#include <gtest/gtest.h>

#include "io/json.h"
#include "support/temporary_folder.h"
#include "support/thrown_error.h"

namespace tern::io {
namespace {

using test::mentions;
using test::thrown_error;
using Row = std::vector<std::string>;

/// The lines of a text, read as a file's are.
LineSource lines_of(const test::TemporaryFolder& folder, const std::string& text) {
  test::write_bytes(folder / "table", text);
  const std::shared_ptr<std::FILE> file(std::fopen((folder / "table").c_str(), "rb"), &std::fclose);
  return [file, lines = stream_lines(file.get(), "table")](std::string& line) { return lines(line); };
}

/// All rows; a malformed one counts as the row {"bad"}.
std::vector<Row> rows_of(const std::string& text, const TableOptions& options) {
  const test::TemporaryFolder folder;
  TableReader reader("t", lines_of(folder, text), options);
  std::vector<Row> rows;
  while (const std::optional<TableRow> row = reader.next()) {
    rows.push_back(row->fault.empty() ? row->fields : Row{"bad"});
    if (row->fault.empty()) continue;
    EXPECT_TRUE(row->fields.empty());
  }
  return rows;
}

/// Place and fault of the last row.
std::string fault_of(const std::string& text, const TableOptions& options) {
  const test::TemporaryFolder folder;
  TableReader reader("t", lines_of(folder, text), options);
  std::string fault;
  while (const std::optional<TableRow> row = reader.next()) fault = reader.place() + ": " + row->fault;
  return fault;
}

Error failure_of(const std::string& text, const TableOptions& options) {
  const test::TemporaryFolder folder;
  return thrown_error([&] { TableReader("t", lines_of(folder, text), options); });
}

TableOptions tsv(Row columns, bool has_header = false) { return {TableFormat::tsv, columns, has_header}; }
TableOptions json(Row columns) { return {TableFormat::json_lines, columns, false}; }

TEST(Table, HeaderNamesColumnsInAnyOrder) {
  EXPECT_EQ(rows_of("id\ttext\tlabel\n1\tone text\tgood\n2\tanother\tbad one\n", tsv({"label", "text"})),
            (std::vector<Row>{{"good", "one text"}, {"bad one", "another"}}));
}

TEST(Table, NumbersNeedNoHeaderAndCanSkipOne) {
  const std::string text = "a\tb\tc\nd\te\tf";
  EXPECT_EQ(rows_of(text, tsv({"3", "1"})), (std::vector<Row>{{"c", "a"}, {"f", "d"}}));
  EXPECT_EQ(rows_of(text, tsv({"3", "1"}, true)), (std::vector<Row>{{"f", "d"}}));
  EXPECT_EQ(rows_of(text, tsv({"c", "1"})), (std::vector<Row>{{"f", "d"}}));
}

TEST(Table, MarksAtTheStartAndCarriageReturnsAreDropped) {
  EXPECT_EQ(rows_of("\xEF\xBB\xBFtext\tlabel\r\nx\ty\r\n", tsv({"text", "label"})),
            (std::vector<Row>{{"x", "y"}}));
  EXPECT_EQ(rows_of("\xEF\xBB\xBF{\"a\": \"x\"}\r\n", json({"a"})), (std::vector<Row>{{"x"}}));
  // inside a line both are bytes like others
  EXPECT_EQ(rows_of("a\rb\t\xEF\xBB\xBF\n", tsv({"1", "2"})), (std::vector<Row>{{"a\rb", "\xEF\xBB\xBF"}}));
}

TEST(Table, QuotesBackslashesAndNulBytesMeanThemselves) {
  const std::string nul("n\0l", 3);
  EXPECT_EQ(rows_of("\"a\t\"b\\t" + nul + "\xFF\n", tsv({"1", "2"})),
            (std::vector<Row>{{"\"a", "\"b\\t" + nul + "\xFF"}}));
}

TEST(Table, EmptyFieldsAreTextsAndEmptyLinesAreNoRows) {
  EXPECT_EQ(rows_of("a\tb\n\n\t\n\nc\t\n", tsv({"1", "2"})),
            (std::vector<Row>{{"a", "b"}, {"", ""}, {"c", ""}}));
  EXPECT_EQ(rows_of("\na\tb\n", tsv({"2"})), (std::vector<Row>{{"b"}}));
  EXPECT_EQ(rows_of("a\n\nb\n\n", tsv({"1"})), (std::vector<Row>{{"a"}, {""}, {"b"}, {""}}));
  EXPECT_EQ(rows_of("text\n\nb\n", tsv({"text"})), (std::vector<Row>{{""}, {"b"}}));
  EXPECT_EQ(rows_of("\n{\"a\": \"\"}\n\n", json({"a"})), (std::vector<Row>{{""}}));
  EXPECT_EQ(rows_of("", tsv({"1"})), std::vector<Row>{});
}

TEST(Table, LinesOfOtherWidthAreMalformedAndTheNextIsRead) {
  EXPECT_EQ(rows_of("a\tb\nonly\nc\td\te\nf\tg\n", tsv({"1", "2"})),
            (std::vector<Row>{{"a", "b"}, {"bad"}, {"bad"}, {"f", "g"}}));
  EXPECT_EQ(fault_of("a\tb\n\nc\td\te\n", tsv({"1", "2"})),
            "t:3: a line must have 2 columns as the first one has, got 3: \"c\\td\\te\"");
  EXPECT_EQ(fault_of("a\tb\n", tsv({"3"})), "t:1: column 3 is wanted, got a line of 2: \"a\\tb\"");
}

TEST(Table, JsonValuesBecomeTexts) {
  EXPECT_EQ(rows_of(R"({"text": "tab\there \u00e9", "n": [1], "label": 3})"
                    "\n"
                    R"({"label": true, "text": "\u0000"})",
                    json({"label", "text"})),
            (std::vector<Row>{{"3", "tab\there \xC3\xA9"}, {"true", std::string(1, '\0')}}));
}

TEST(Table, MalformedJsonIsNamedAndTheNextLineIsRead) {
  EXPECT_EQ(
      rows_of(
          "{\"a\": \"x\"}\n{\"a\": \n[1]\n{\"b\": 1}\n{\"a\": null}\n{\"a\": 1, \"a\": 2}\n{\"a\": \"\xFF\"}"
          "\n{\"a\": {}}\n{\"a\": \"y\"}\n",
          json({"a"})),
      (std::vector<Row>{{"x"}, {"bad"}, {"bad"}, {"bad"}, {"bad"}, {"bad"}, {"bad"}, {"bad"}, {"y"}}));
  EXPECT_EQ(fault_of("{\"a\": \"x\"}\n{\"b\": 1}\n", json({"a"})),
            "t:2: the object must have a key \"a\", got \"{\\\"b\\\": 1}\"");
}

TEST(Table, FaultsAreUtf8WhateverTheLineHolds) {
  EXPECT_EQ(fault_of("a\tb\n\xFF\n", tsv({"1"})),
            "t:2: a line must have 2 columns as the first one has, got 1: \"\xEF\xBF\xBD\"");
  for (const char* line : {"{\"a\": \"\xFF\"}", "\xFF", "[\"\xC3\"]"})
    EXPECT_NO_THROW(dump_json(fault_of(line, json({"a"})))) << line;
}

TEST(Table, HeadersThatCannotServeAreRefused) {
  const Error absent = failure_of("sentence,label\nx,y\n", tsv({"label"}));
  EXPECT_EQ(absent.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(absent, "t:1: the header must name a column \"label\", got \"sentence,label\""));
  EXPECT_TRUE(mentions(failure_of("", tsv({"label"})), "must begin with a header line"));
  EXPECT_TRUE(mentions(failure_of("a\tb\ta\n", tsv({"a"})), "\"a\" twice"));
  EXPECT_TRUE(mentions(failure_of("\xFF\xFEt\0", tsv({"text"})), "UTF-16"));
  EXPECT_EQ(failure_of("a\n", tsv({"0"})).code(), ExitCode::failed);
  EXPECT_EQ(failure_of("a\n", tsv({})).code(), ExitCode::failed);
}

TEST(Table, StreamsEndAtALineThatIsTooLongAndAtAFailure) {
  const test::TemporaryFolder folder;
  const auto longest = static_cast<std::size_t>(line_cap);
  const LineSource lines =
      lines_of(folder, "a\n" + std::string(longest, 'x') + "\n" + std::string(longest + 1, 'x'));
  std::string line;
  ASSERT_TRUE(lines(line) && line == "a" && lines(line));
  EXPECT_EQ(line.size(), longest);
  const Error error = thrown_error([&] { lines(line); });
  EXPECT_EQ(error.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(error, "table:3: a line must have at most 67108864 bytes"));
  std::FILE* unreadable = std::fopen(folder.path().c_str(), "rb");  // a folder can be opened, not read
  ASSERT_NE(unreadable, nullptr);
  EXPECT_EQ(thrown_error([&] { stream_lines(unreadable, "folder")(line); }).code(), ExitCode::io_error);
  std::fclose(unreadable);
}

TEST(Table, FilesGiveTheirLines) {
  const test::TemporaryFolder folder;
  test::write_bytes(folder / "plain.tsv", "a\n\nb");
  const LineSource lines = file_lines(folder / "plain.tsv");
  std::string line;
  ASSERT_TRUE(lines(line) && line == "a" && lines(line) && line.empty() && lines(line));
  EXPECT_EQ(line, "b");
  EXPECT_FALSE(lines(line));
  EXPECT_FALSE(lines(line));
  EXPECT_EQ(thrown_error([&] { file_lines(folder.path()); }).code(), ExitCode::bad_data);
  EXPECT_EQ(thrown_error([&] { file_lines(folder / "absent.tsv"); }).code(), ExitCode::missing_input);
}

TEST(Table, FormatFollowsTheExtension) {
  for (const char* name : {"a.jsonl", "b/c.ndjson", "a.json", "a.jsonl.xz", "a.json.gz"})
    EXPECT_EQ(table_format_of(name), TableFormat::json_lines) << name;
  for (const char* name : {"a.tsv", "a.txt", "a.tsv.gz", "jsonl", "a"})
    EXPECT_EQ(table_format_of(name), TableFormat::tsv) << name;
}

}  // namespace
}  // namespace tern::io
