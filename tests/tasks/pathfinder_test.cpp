// The task: what it asks the model and the data for.
#include <gtest/gtest.h>

#include "support/temporary_folder.h"
#include "support/thrown_error.h"
#include "tasks/pathfinder_data.h"
#include "tern/task.h"

namespace tern::tasks {
namespace {

Task task_of(const std::string& text) {
  struct Holder {
    Choice task{task_choices(), "pathfinder"};
    void fields(Fields& f) { f("task", task, "the task"); }
  } holder;
  config::load_text(holder, "{task: {kind: pathfinder" + text + "}}", "test.yaml");
  return make_task(holder.task);
}

TEST(PathfinderTask, asks_for_the_published_model_and_masks_black_pixels) {
  const Task task = task_of("");
  EXPECT_EQ(task.interface.vocabulary, 512);
  EXPECT_EQ(task.interface.ids, 256);
  EXPECT_EQ(task.interface.padded_length, 1024);
  EXPECT_EQ(task.interface.outputs, 2);
  EXPECT_EQ(task.max_length, 1024);
  EXPECT_TRUE(task.mask_zero);
  EXPECT_FALSE(task_of(", mask_zero: false").mask_zero);
  EXPECT_EQ(task_of(", size: 128").interface.padded_length, 16384);  // Path-X
  EXPECT_EQ(task_of(", size: 256").max_length, 65536);
  EXPECT_EQ(test::thrown_error([] { task_of(", size: 48"); }).code(), ExitCode::bad_config);
}

TEST(PathfinderTask, refuses_data_of_another_size) {
  const test::TemporaryFolder folder;
  const pathfinder::GeneratedOptions options{.count = 10};
  Preparation preparation({folder / "data"}, pathfinder::generated_header(options));
  pathfinder::prepare_generated(options, preparation);
  const std::string data = ", data: \"" + (folder / "data").string() + "\"";
  EXPECT_EQ(task_of(data).train, folder / "data/train.records");
  const Error error = test::thrown_error([&] { task_of(data + ", size: 64"); });
  EXPECT_EQ(error.code(), ExitCode::bad_data);
  EXPECT_TRUE(test::mentions(error, "task.size")) << error.what();
}

}  // namespace
}  // namespace tern::tasks
