#include <gtest/gtest.h>

#include "tern/task.h"

namespace tern {
namespace {

struct Published {
  std::string name;
  std::int64_t vocabulary, padded_length, outputs, max_length;
  bool is_pair = false;
};

TEST(PreparedTask, asks_for_the_published_model) {
  for (const Published& published : {Published{"listops", 32, 2048, 10, 2000},
                                     {"text", 512, 4096, 2, 4000},
                                     {"retrieval", 512, 4096, 2, 4000, true},
                                     {"image", 512, 1024, 10, 1024}}) {
    SCOPED_TRACE(published.name);
    const Task task = make_task(Choice(task_choices(), published.name));
    EXPECT_EQ(task.interface.vocabulary, published.vocabulary);
    EXPECT_EQ(task.interface.padded_length, published.padded_length);
    EXPECT_EQ(task.interface.outputs, published.outputs);
    EXPECT_EQ(task.interface.is_pair, published.is_pair);
    EXPECT_EQ(task.max_length, published.max_length);
    EXPECT_TRUE(task.mask_zero);
    EXPECT_EQ(task.train, "data/prepared/" + published.name + "/train.records");
    EXPECT_EQ(task.test, "data/prepared/" + published.name + "/test.records");
  }
}

}  // namespace
}  // namespace tern
