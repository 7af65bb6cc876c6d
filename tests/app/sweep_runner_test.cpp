// Which GPU a run of a sweep gets, and what is told of a run that failed.
#include "app/sweep_runner.h"

#include <gtest/gtest.h>

namespace tern::test {
namespace {

TEST(SweepSlots, runs_go_to_the_gpus_in_turns) {
  const auto text = [](int gpus, const std::optional<std::string>& visible, std::int64_t jobs) {
    std::string out;
    for (const app::SweepSlot& slot : app::sweep_slots(gpus, visible, jobs))
      out += slot.device + "=" + slot.visible + " ";
    return out;
  };
  EXPECT_EQ(text(0, {}, 2), "CPU= CPU= ");
  EXPECT_EQ(text(2, {}, 1), "GPU 0=0 GPU 1=1 ");
  EXPECT_EQ(text(2, "3,5", 2), "GPU 0=3 GPU 1=5 GPU 0=3 GPU 1=5 ");
  EXPECT_EQ(text(1, "GPU-1d2c,7", 1), "GPU 0=GPU-1d2c ");
}

TEST(SweepMessages, the_last_message_of_the_program_is_kept) {
  EXPECT_EQ(app::last_message("[train] a\ntern: first\n[train] b\ntern: second\n  in step 3\n"),
            "second   in step 3");
  EXPECT_EQ(app::last_message("tern: only\n"), "only");
  EXPECT_EQ(app::last_message("[train] killed\n"), "");
}

}  // namespace
}  // namespace tern::test
