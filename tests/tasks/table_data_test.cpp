// The user's own texts, from files to record files, against rows written down here.
#include "tasks/table_data.h"

#include <algorithm>
#include <set>

#include <gtest/gtest.h>

#include "io/atomic_file.h"
#include "support/temporary_folder.h"
#include "support/thrown_error.h"
#include "tern/task.h"

namespace tern::tasks {
namespace {

namespace fs = std::filesystem;
using test::mentions;
using test::TemporaryFolder;
using test::thrown_error;

constexpr const char* small_table =
    "label\ttext\ngood\tone\nbad\ttwo words\ngood\t\nbad\tthree\ngood\tmore\nbad\tfour\n";

/// A table as train, dev and test, or under other names for some of them.
TableDataOptions options_for(const TemporaryFolder& folder, const std::string& train = small_table,
                             const std::string& task = "classification") {
  test::write_bytes(folder / "train.tsv", train);
  TableDataOptions options;
  options.task = task;
  options.train = options.dev = options.test = folder / "train.tsv";
  return options;
}

/// Prepares into the folder's "data" and returns what was left out.
std::vector<SkippedItem> prepare(const TemporaryFolder& folder, const TableDataOptions& options,
                                 std::int64_t allowed_bad = 0) {
  TableData data(options);
  Preparation preparation({folder / "data", false, allowed_bad}, data.header(), data.sources());
  if (!preparation.is_complete()) data.write(preparation);
  return preparation.skipped();
}

data::RecordFile split_of(const TemporaryFolder& folder, const std::string& split) {
  return data::RecordFile(folder / "data/" / (split + ".records"));
}

/// The text behind ids that are bytes + 1.
std::string text_of(const data::RecordFile& file, std::int64_t record, int which = 0) {
  const data::TokenSpan ids = file.tokens(record, which);
  std::string text;
  for (std::int64_t i = 0; i < ids.size(); ++i) text.push_back(static_cast<char>(ids[i] - 1));
  return text;
}

using Rows = std::vector<std::pair<std::string, int>>;
Rows rows_of(const data::RecordFile& file) {
  Rows rows;
  for (std::int64_t r = 0; r < file.count(); ++r) rows.emplace_back(text_of(file, r), file.label(r));
  return rows;
}

Task task_of(const TemporaryFolder& folder, const std::string& kind, const std::string& more = "") {
  Choice choice(task_choices(), kind);
  struct Holder {
    Choice task;
    void fields(Fields& f) { f("task", task, "the task"); }
  } holder{choice};
  config::load_text(holder,
                    "{task: {kind: " + kind + ", data: \"" + (folder / "data").string() + "\"" + more + "}}",
                    "test.yaml");
  return make_task(holder.task);
}

TEST(TableData, RecordsAreTheBytesOfTheTextsAndSortedClasses) {
  const TemporaryFolder folder;
  prepare(folder, options_for(folder));
  const Rows expected{{"one", 1}, {"two words", 0}, {"", 1}, {"three", 0}, {"more", 1}, {"four", 0}};
  for (const char* split : {"train", "dev", "test"}) EXPECT_EQ(rows_of(split_of(folder, split)), expected);
  const data::RecordFile train = split_of(folder, "train");
  EXPECT_EQ(train.tokens(0)[0], 'o' + 1);
  EXPECT_EQ(train.header().vocabulary, 257);
  EXPECT_EQ(train.header().padded_length, 9);
  EXPECT_EQ(train.header().classes, 2);
}

TEST(TableData, TaskKnowsWhatTheDataSay) {
  const TemporaryFolder folder;
  prepare(folder, options_for(folder));
  const Task task = task_of(folder, "classification");
  EXPECT_EQ(task.interface.vocabulary, 257);
  EXPECT_EQ(task.interface.padded_length, 9);
  EXPECT_EQ(task.interface.outputs, 2);
  EXPECT_FALSE(task.interface.is_pair || task.interface.is_regression);
  EXPECT_EQ(task.max_length, 9);
  EXPECT_EQ(task.class_names, (std::vector<std::string>{"bad", "good"}));
  EXPECT_EQ(task.text_columns.names, std::vector<std::string>{"text"});
  EXPECT_EQ(task.test, folder / "data/test.records");
  EXPECT_EQ(task_of(folder, "classification", ", max_length: 5").interface.padded_length, 5);
  EXPECT_EQ(thrown_error([&] { task_of(folder, "classification", ", padded_length: 8"); }).code(),
            ExitCode::bad_config);
  EXPECT_TRUE(
      mentions(thrown_error([&] { task_of(folder, "pair"); }), "data for the task pair, got classification"));
  fs::remove(folder / "data/train.records");
  const Error absent = thrown_error([&] { task_of(folder, "classification"); });
  EXPECT_EQ(absent.code(), ExitCode::missing_input);
  EXPECT_TRUE(mentions(absent, "tern data prepare classification --train FILE"));
}

TEST(TableData, NamesOfClassesSortAsNumbersWhereAllAreAndAsGivenOtherwise) {
  const TemporaryFolder folder;
  TableDataOptions options = options_for(folder, "label\ttext\n10\ta\n-1\tb\n9\tc\n");
  EXPECT_TRUE(mentions(Error(ExitCode::failed, TableData(options).header().options),
                       R"("class_names":["-1","9","10"])"));
  options.classes = {"10", "9", "-1", "unseen"};
  prepare(folder, options);
  EXPECT_EQ(rows_of(split_of(folder, "train")), (Rows{{"a", 0}, {"b", 2}, {"c", 1}}));
  EXPECT_EQ(split_of(folder, "train").header().classes, 4);
}

TEST(TableData, PairsAndTargets) {
  const TemporaryFolder folder;
  TableDataOptions options = options_for(folder, "a\tb\t0.5\nccc\td\t-2e1\n", "regression");
  options.texts = {"1", "2"};
  options.label = "3";
  prepare(folder, options);
  const data::RecordFile train = split_of(folder, "train");
  EXPECT_EQ(train.target(0), 0.5F);
  EXPECT_EQ(train.target(1), -20.0F);
  EXPECT_EQ(text_of(train, 1, 0) + "|" + text_of(train, 1, 1), "ccc|d");
  const Task task = task_of(folder, "regression");
  EXPECT_TRUE(task.interface.is_pair && task.interface.is_regression);
  EXPECT_EQ(task.interface.outputs, 1);
  EXPECT_TRUE(task.class_names.empty());

  const TemporaryFolder other;
  options = options_for(other, "a\tb\tyes\nccc\td\tno\n", "pair");
  options.texts = {"1", "2"};
  options.label = "3";
  prepare(other, options);
  EXPECT_TRUE(task_of(other, "pair").interface.is_pair);
  EXPECT_EQ(split_of(other, "train").label(0), 1);
}

TEST(TableData, JsonLinesGiveTheSameRecordsAsTsv) {
  const TemporaryFolder folder, other;
  prepare(folder, options_for(folder, "label\ttext\n1\tx y\n0\t\xC3\xA9\n"));
  TableDataOptions options = options_for(other);
  test::write_bytes(
      other / "train.jsonl",
      "{\"text\": \"x y\", \"label\": 1}\r\n\n{\"label\": 0, \"text\": \"\\u00e9\", \"more\": []}");
  options.train = options.dev = options.test = other / "train.jsonl";
  prepare(other, options);
  EXPECT_EQ(rows_of(split_of(other, "dev")), rows_of(split_of(folder, "dev")));
  EXPECT_EQ(rows_of(split_of(other, "dev")), (Rows{{"x y", 1}, {"\xC3\xA9", 0}}));
}

TEST(TableData, LongTextsAreCutToTheLongestOfTrain) {
  const TemporaryFolder folder;
  TableDataOptions options = options_for(folder);
  test::write_bytes(folder / "dev.tsv", "label\ttext\ngood\tmuch longer than any\n");
  options.dev = folder / "dev.tsv";
  options.max_length = 3;
  TableData data(options);
  Preparation preparation({folder / "data"}, data.header(), data.sources());
  data.write(preparation);
  EXPECT_EQ(rows_of(split_of(folder, "dev")), (Rows{{"muc", 1}}));
  EXPECT_EQ(data.cut(), 1 + 2 * 4);  // of train and of test: all but "one" and the empty one
  EXPECT_EQ(data.empty(), 2);
  options.max_length = 4096;
  EXPECT_EQ(TableData(options).header().padded_length, 9);
}

TEST(TableData, AbsentSplitsAreDrawnFromTrainBySeed) {
  const TemporaryFolder folder;
  std::string table = "label\ttext\n";
  for (int i = 0; i < 40; ++i) table += (i % 2 == 0 ? "even\t" : "odd\t") + std::to_string(i) + "\n";
  TableDataOptions options = options_for(folder, table);
  options.dev = options.test = "";
  options.held_out = 0.2;
  prepare(folder, options);
  std::set<int> seen;
  const auto numbers = [&](const std::string& split) {
    std::vector<int> found;
    for (const auto& [text, label] : rows_of(split_of(folder, split))) {
      found.push_back(std::stoi(text));
      EXPECT_EQ(label, found.back() % 2);
      EXPECT_TRUE(seen.insert(found.back()).second) << "twice: " << text;
    }
    EXPECT_TRUE(std::is_sorted(found.begin(), found.end()));
    return found;
  };
  EXPECT_EQ(numbers("train").size(), 24U);
  const std::vector<int> dev = numbers("dev");
  EXPECT_EQ(dev.size(), 8U);
  EXPECT_EQ(numbers("test").size(), 8U);
  EXPECT_EQ(seen.size(), 40U);
  options.seed = 1;
  fs::remove_all(folder / "data");
  prepare(folder, options);
  seen.clear();
  EXPECT_NE(numbers("dev"), dev);
}

TEST(TableData, MalformedLinesAreNamedOrLeftOutAndCounted) {
  const TemporaryFolder folder;
  TableDataOptions options = options_for(
      folder, "label\ttext\ngood\tone\nbroken\nbad\ttwo\n\tno label\nb\001d\tcontrol\n\xFF\tnot UTF-8\n");
  test::write_bytes(folder / "dev.tsv", "label\ttext\nugly\tunknown\ngood\tten\n");
  options.dev = options.test = folder / "dev.tsv";
  const Error error = thrown_error([&] { prepare(folder, options); });
  EXPECT_EQ(error.code(), ExitCode::bad_data);
  EXPECT_TRUE(mentions(error, (folder / "train.tsv:3: ").string() + "a line must have 2 columns"))
      << error.what();
  EXPECT_TRUE(mentions(error, "--allow-bad")) << error.what();
  EXPECT_FALSE(fs::exists(folder / "data/train.records"));
  EXPECT_EQ(thrown_error([&] { prepare(folder, options, 5); }).code(), ExitCode::bad_data);

  const std::vector<SkippedItem> skipped = prepare(folder, options, 6);
  ASSERT_EQ(skipped.size(), 6U);
  const std::vector<std::pair<std::string, std::string>> expected{{"train.tsv:3", "columns"},
                                                                  {"train.tsv:5", "must not be empty"},
                                                                  {"train.tsv:6", "control characters"},
                                                                  {"train.tsv:7", "must be UTF-8"},
                                                                  {"dev.tsv:2", "\"ugly\" is not among the 2"},
                                                                  {"dev.tsv:2", "\"ugly\" is not among the 2"}};
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_TRUE(skipped[i].name.ends_with(expected[i].first)) << skipped[i].name;
    EXPECT_NE(skipped[i].reason.find(expected[i].second), std::string::npos) << skipped[i].reason;
  }
  EXPECT_EQ(rows_of(split_of(folder, "train")), (Rows{{"one", 1}, {"two", 0}}));
  EXPECT_EQ(rows_of(split_of(folder, "test")), (Rows{{"ten", 1}}));
  EXPECT_NE(io::read_file(folder / "data/manifest.json", 1 << 20).find("dev.tsv:2"), std::string::npos);
}

TEST(TableData, TargetsMustBeFiniteNumbers) {
  for (const char* target : {"nan", "1e99", "inf", "", " 1", "1x"}) {
    const TemporaryFolder folder;
    const TableDataOptions options =
        options_for(folder, "label\ttext\n1\ta\n" + std::string(target) + "\tb\n", "regression");
    const Error error = thrown_error([&] { prepare(folder, options); });
    EXPECT_EQ(error.code(), ExitCode::bad_data) << target;
    EXPECT_TRUE(mentions(error, "train.tsv:3: a label must be a finite number")) << error.what();
  }
}

TEST(TableData, TablesThatCannotServeAreRefused) {
  const TemporaryFolder folder;
  const auto code_of = [&](const TableDataOptions& options) {
    return thrown_error([&] { prepare(folder, options); }).code();
  };
  EXPECT_EQ(code_of(options_for(folder, "label\ttext\n")), ExitCode::bad_data);
  EXPECT_EQ(code_of(options_for(folder, "label\ttext\nonly\ta\nonly\tb\n")), ExitCode::bad_data);
  EXPECT_EQ(code_of(options_for(folder, "")), ExitCode::bad_data);
  TableDataOptions options = options_for(folder, "label\ttext\na\tb\nc\td\n");
  options.dev = options.test = "";
  EXPECT_EQ(code_of(options), ExitCode::bad_data);  // two lines for three splits
  const Error unusable = thrown_error([&] { prepare(folder, options_for(folder, "label\ttext\nx\n\ty\n")); });
  EXPECT_TRUE(mentions(unusable, "train.tsv:2: a line must have 2 columns")) << unusable.what();
  EXPECT_TRUE(mentions(unusable, "no line of the file is usable")) << unusable.what();
  // What is too little may be so because of lines that were left out: the first of them is named.
  const Error few = thrown_error([&] { prepare(folder, options_for(folder, "label\ttext\nx\ta\ny\nx\tb\n")); });
  EXPECT_TRUE(mentions(few, "at least two classes, got only \"x\"")) << few.what();
  EXPECT_TRUE(mentions(few, "cannot be used is " + (folder / "train.tsv").string() + ":3: a line must"))
      << few.what();
  TableDataOptions numbers = options_for(folder, "label\ttext\n1e400\ta\n2\tb\n3\tc\n", "regression");
  numbers.dev = numbers.test = "";
  const Error huge = thrown_error([&] { prepare(folder, numbers); });
  EXPECT_TRUE(mentions(huge, "at least 3 usable lines, got 2; add lines; the first that cannot be used is "));
  EXPECT_TRUE(mentions(huge, "train.tsv:2: a label must be a finite number, got \"1e400\"")) << huge.what();
  options.train = folder / "absent.tsv";
  EXPECT_EQ(code_of(options), ExitCode::missing_input);
  options = options_for(folder);
  options.classes = {"good", "bad", "good"};
  EXPECT_EQ(code_of(options), ExitCode::failed);
  options.classes = {"good"};
  EXPECT_EQ(code_of(options), ExitCode::bad_data);
  std::string labels = "label\ttext\n";
  for (int i = 0; i < 10001; ++i) labels += "x" + std::to_string(i) + "\ty\n";
  const Error many = thrown_error([&] { prepare(folder, options_for(folder, labels)); });
  EXPECT_TRUE(mentions(many, "at most 10000 classes")) << many.what();
}

TEST(TableData, OtherDataAreNotReplacedAndEqualOnesAreKept) {
  const TemporaryFolder folder;
  prepare(folder, options_for(folder));
  const fs::file_time_type before = fs::last_write_time(folder / "data/train.records");
  prepare(folder, options_for(folder));
  EXPECT_EQ(fs::last_write_time(folder / "data/train.records"), before);
  const TableDataOptions other = options_for(folder, std::string(small_table) + "good\tchanged\n");
  EXPECT_EQ(thrown_error([&] { prepare(folder, other); }).code(), ExitCode::cannot_create);
}

}  // namespace
}  // namespace tern::tasks
