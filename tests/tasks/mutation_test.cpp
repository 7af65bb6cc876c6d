// Published data, tables of one's own and prepared folders, damaged or hostile: prepared, or refused by name.
#include "support/mutation.h"

#include <gtest/gtest.h>

#include "io/png.h"
#include "support/temporary_folder.h"
#include "tasks/image_source.h"
#include "tasks/listops_source.h"
#include "tasks/pathfinder_source.h"
#include "tasks/retrieval_source.h"
#include "tasks/table_data.h"
#include "tasks/task_file.h"
#include "tasks/text_source.h"
#include "tern/experiment.h"
#include "tern/logging.h"
#include "tern/task.h"

namespace tern::tasks {
namespace {

namespace fs = std::filesystem;
using test::feed;
using test::read_bytes;
using test::TemporaryFolder;
using test::Variation;
using test::write_bytes;

class TaskMutation : public testing::Test {
 protected:
  TemporaryFolder folder;
  void SetUp() override { logging::set_level(logging::Level::error); }
  void TearDown() override { logging::set_level(logging::Level::info); }

  PreparationOptions options() const { return {.folder = folder / "out", .force = true, .allowed_bad = 1000}; }
  /// Varies the file `name`, prepares, and opens what came of it.
  void feed_source(const std::string& name, int count, const std::function<void()>& prepare,
                   Variation variation = Variation::bytes) const {
    feed(read_bytes(folder / name), variation, count, {ExitCode::bad_data}, [&](const std::string& text) {
      write_bytes(folder / name, text);
      prepare();
      for (const std::string_view split : split_names)
        data::RecordFile(split_file(folder / "out", split)).verify();
    });
  }
};

TEST_F(TaskMutation, damaged_listops_files_are_prepared_or_refused) {
  for (const char* split : {"train", "val", "test"})
    write_bytes(folder / (std::string("basic_") + split + ".tsv"),
                "Source\tTarget\n( ( ( [MAX 2 ) 7 ) ] )\t7\n( ( ( [MIN 4 ) 1 ) ] )\t1\n");
  feed_source("basic_train.tsv", 15, [&] {
    Preparation preparation(options(), published_listops_header());
    prepare_published_listops(listops_sources({folder.path()}), preparation);
  });
}

TEST_F(TaskMutation, damaged_pairs_of_papers_are_prepared_or_refused) {
  for (const char* split : {"train", "eval", "test"})
    write_bytes(folder / (std::string("new_aan_pairs.") + split + ".tsv"),
                "1.0\tA\tB\tfirst paper\tsecond paper\n0.0\tA\tC\tfirst paper\tthird paper\n");
  feed_source("new_aan_pairs.eval.tsv", 15, [&] {
    Preparation preparation(options(), retrieval_header({}));
    prepare_retrieval(retrieval_sources({folder.path()}, {}), {}, preparation);
  });
}

TEST_F(TaskMutation, damaged_reviews_are_prepared_or_refused) {
  write_bytes(folder / "train.tsv", "1\t0\t8\ta fine film\n0\t0\t3\ta poor film\n1\t1\t9\tmore of it\n");
  write_bytes(folder / "test.tsv", "1\t0\t8\ta fine film\n0\t0\t3\ta poor film\n");
  feed_source("train.tsv", 15, [&] {
    Preparation preparation(options(), text_header({}));
    prepare_text(text_sources({folder.path()}), {}, preparation);
  });
}

TEST_F(TaskMutation, damaged_image_batches_are_prepared_or_refused) {
  std::string images;
  for (int image = 0; image < 12; ++image)
    images += static_cast<char>(image % 10) + std::string(1024, static_cast<char>(20 * image));
  write_bytes(folder / "gray_train.bin", images);
  write_bytes(folder / "gray_test.bin", images);
  feed_source("gray_train.bin", 15, [&] {
    Preparation preparation(options(), image_header());
    prepare_image(image_sources({folder.path()}), preparation);
  });
}

TEST_F(TaskMutation, damaged_pathfinder_sets_are_prepared_or_refused) {
  pathfinder::write_images({.count = 12}, folder / "set");
  const auto prepare = [&] {
    pathfinder::ReleasedImages images({folder / "set"}, {}, 0);
    Preparation preparation(options(), images.header(), images.sources());
    images.write(preparation);
    preparation.complete();
  };
  const std::string set = "set/pathfinder32/" + pathfinder::released_folder(pathfinder::Difficulty::hard);
  const std::string metadata = read_bytes(folder / (set + "/metadata/0.npy"));
  feed_source(set + "/metadata/0.npy", 10, prepare);
  write_bytes(folder / (set + "/metadata/0.npy"), metadata);
  feed_source(set + "/imgs/0/sample_0.png", 10, prepare);
}

TEST_F(TaskMutation, damaged_tables_are_prepared_or_refused) {
  write_bytes(folder / "x.tsv", "label\ttext\ngood\tone\nbad\ttwo words\ngood\t\nbad\tthree\ngood\tmore\n");
  write_bytes(folder / "x.jsonl",
              "{\"label\": 1, \"text\": \"one\"}\n{\"label\": 2.5, \"text\": \"two\"}\n"
              "{\"label\": -3, \"text\": \"\\u00e4\"}\n{\"label\": 4, \"text\": \"\"}\n");
  for (const std::string name : {"x.tsv", "x.jsonl"})
    feed_source(name, 15, [&] {
      TableDataOptions table;
      table.task = name == "x.tsv" ? "classification" : "regression";
      table.train = table.dev = table.test = folder / name;
      TableData data(table);
      Preparation preparation(options(), data.header(), data.sources());
      data.write(preparation);
    });
}

TEST_F(TaskMutation, damaged_manifests_are_read_or_refused) {
  data::RecordHeader header;
  header.task = "example";
  header.vocabulary = 10;
  header.classes = 3;
  const auto prepare = [&](const char* missing) {
    fs::remove(split_file(folder / "out", missing));
    Preparation preparation({.folder = folder / "out", .force = false, .allowed_bad = 5}, header);
    for (const std::string_view split : split_names)
      if (preparation.wants(split)) {
        const std::vector<std::uint8_t> ids{1, 2, 3};
        preparation.writer(split).append(std::span<const std::uint8_t>(ids), std::int32_t{1});
        preparation.skip({std::string(split), "item", "a reason"});
      }
    preparation.complete();
  };
  prepare("train");
  const std::string sound = read_bytes(folder / "out/manifest.json");
  const auto again = [&] { prepare("dev"); };
  for (const Variation variation : {Variation::bytes, Variation::json}) {
    write_bytes(folder / "out/manifest.json", sound);
    feed_source("out/manifest.json", 15, again, variation);
  }
}

TEST_F(TaskMutation, changed_headers_of_prepared_tables_make_a_task_or_are_refused) {
  write_bytes(folder / "x.tsv", "label\ttext\ngood\tone\nbad\ttwo words\ngood\t\nbad\tthree\ngood\tmore\n");
  TableDataOptions table;
  table.train = table.dev = table.test = folder / "x.tsv";
  TableData data(table);
  const auto write = [&](const std::string& options_text) {
    data::RecordHeader header = data.header();
    header.options = options_text;
    header.split = "train";
    fs::create_directories(folder / "data");
    data::RecordWriter writer(folder / "data/train.records", header);
    const std::vector<std::int32_t> ids{1, 2, 3};
    writer.append(std::vector{std::span(ids)}, std::int32_t{1});
    writer.finish();
  };
  const auto read = [&](const std::string& text) {
    write(text);
    const data::RecordHeader header = data::RecordFile(folder / "data/train.records").header();
    data_note(header);
    ExperimentConfig config;
    config::load_text(config, "{task: {kind: classification, data: " + (folder / "data").string() + "}}",
                      "x.yaml");
    const Task task = make_task(config.task);
    EXPECT_EQ(std::ssize(task.class_names), task.interface.outputs);
  };
  EXPECT_NO_THROW(read(data.header().options));
  EXPECT_GT(feed(data.header().options, Variation::json, 60, {ExitCode::bad_data}, read).refused, 10);
}

TEST_F(TaskMutation, changed_task_files_are_read_or_refused) {
  Task task;
  task.interface = {.vocabulary = 300, .padded_length = 64, .outputs = 2, .ids = 257};
  task.max_length = 64;
  task.class_names = {"bad", "good"};
  task.text_columns = {{"text"}, false};
  for (const Variation variation : {Variation::bytes, Variation::json}) {
    const auto fed = feed(
        io::dump_json(to_json(task), 2), variation, 200, {ExitCode::bad_data}, [&](const std::string& text) {
          write_bytes(folder / "task.json", text);
          const Task read = read_task(folder.path());
          EXPECT_GE(read.interface.outputs, 1);
          EXPECT_TRUE(read.class_names.empty() || std::ssize(read.class_names) == read.interface.outputs);
        });
    EXPECT_GT(fed.refused, 60);
  }
}

}  // namespace
}  // namespace tern::tasks
