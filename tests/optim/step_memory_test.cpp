#include <cmath>

#include <gtest/gtest.h>

#include "support/devices.h"
#include "tern/ops.h"
#include "tern/optimizer.h"

namespace tern::test {
namespace {

TEST(StepMemory, starts_finite_and_empty) {
  for (const Device device : test_devices()) {
    const StepState state = StepMemory(device).read();
    EXPECT_EQ(state.step, 0u);
    EXPECT_EQ(state.updates, 0);
    EXPECT_EQ(state.score.examples, 0);
    EXPECT_EQ(state.gradient_scale, 1);
    EXPECT_TRUE(state.is_finite);
  }
}

TEST(StepMemory, holds_what_was_written_last) {
  for (const Device device : test_devices()) {
    StepMemory memory(device);
    memory.set_updates(5);
    for (std::uint32_t step = 0; step < 50; ++step) {  // more writes than there are places to stage them
      memory.begin(step, 0.5 * step, 0.25);
      if (step % 7 == 0) {
        EXPECT_EQ(memory.read().learning_rate, 0.5 * step);
      }
    }
    StepState state = memory.read();
    EXPECT_EQ(state.step, 49u);
    EXPECT_EQ(state.learning_rate, 24.5);
    EXPECT_EQ(state.beta1, 0.25);
    EXPECT_EQ(state.updates, 5) << "begin() writes the inputs only";
    memory.set_step(7);
    state = memory.read();
    EXPECT_EQ(state.step, 7u);
    EXPECT_EQ(state.learning_rate, 24.5);
  }
}

TEST(StepMemory, begin_clears_the_score) {
  for (const Device device : test_devices()) {
    StepMemory memory(device);
    const Tensor logits = zeros({3, 4}, DType::float32, device),
                 labels = from_vector(std::vector<std::int32_t>{0, 1, 0}, {3}, device);
    for (int step = 0; step < 2; ++step) {
      memory.begin(1, 0.1, 0.9);
      cross_entropy(logits, labels, memory.score());
      cross_entropy(logits, labels, memory.score());
      const ScoreTotals score = memory.read().score;
      EXPECT_EQ(score.examples, 6);
      EXPECT_EQ(score.correct, 4) << "the first of equal logits";
      EXPECT_NEAR(score.loss, 6 * std::log(4.0), 1e-5);
    }
  }
}

TEST(StepMemory, streams_draw_from_the_step_in_memory) {
  for (const Device device : test_devices()) {
    StepMemory memory(device);
    const Tensor x = full({64, 32}, 1, DType::float32, device), sample = zeros({64}, DType::int64, device),
                 position = zeros({64}, DType::int32, device);
    const DropoutOptions options{0.5, {stream_key(1, "site"), memory.step()}};
    const auto draw = [&] { return dropout(x, {sample, position}, options).to_vector<float>(); };
    memory.set_step(3);
    const std::vector<float> third = draw();
    memory.set_step(4);
    EXPECT_NE(draw(), third);
    memory.begin(3, 1, 1);
    EXPECT_EQ(draw(), third);
  }
}

}  // namespace
}  // namespace tern::test
