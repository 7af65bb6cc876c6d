// The estimate of operations against the formulas, and of memory against the measured peak of a step.
#include "training/cost.h"

#include <gtest/gtest.h>

#include "tern/memory.h"
#include "tern/ops.h"
#include "training/device_batch.h"

namespace tern {
namespace {

constexpr std::int64_t padded_length = 1024;

ExperimentConfig configuration(const std::string& attention, bool recompute, const std::string& more = "") {
  ExperimentConfig config;
  const std::string length = std::to_string(padded_length);
  config::load_text(config,
                    "run: {device: cpu}\ntask: {kind: listops, max_length: " + length + ", padded_length: " +
                        length + "}\nmodel: {layers: 3, recompute: " + (recompute ? "true" : "false") +
                        ", attention: {kind: " + attention + "}}\n" + more,
                    "test.yaml");
  return config;
}

/// Peak bytes of one training step on `examples` sequences of `length` tokens.
double measured_bytes(Experiment& experiment, std::int64_t examples, std::int64_t length) {
  std::vector<std::int32_t> tokens, position, offsets{0}, labels;
  std::vector<std::int64_t> sample;
  for (std::int64_t e = 0; e < examples; ++e) {
    for (std::int64_t i = 0; i < length; ++i) {
      tokens.push_back(static_cast<std::int32_t>(1 + (7 * i + e) % 15));
      position.push_back(static_cast<std::int32_t>(i));
    }
    offsets.push_back(static_cast<std::int32_t>(tokens.size()));
    labels.push_back(static_cast<std::int32_t>(e % 10));
    sample.push_back(e);
  }
  reset_peak_memory();
  const SequenceLayout layout = make_layout(offsets, position, sample, padded_length);
  const Tensor ids = from_vector(tokens, {static_cast<std::int64_t>(tokens.size())});
  const Tensor loss = cross_entropy(experiment.model(ids, layout, true), from_vector(labels, {examples}));
  backward(loss);
  return static_cast<double>(memory_statistics().peak_bytes);
}

TEST(Cost, MemoryIsWithinAFactorOfTheMeasuredPeak) {
  ASSERT_FALSE(attention_kinds().empty());
  for (const AttentionKind& kind : attention_kinds())
    for (const bool recompute : {false, true})
      for (const std::int64_t length : {128, 512}) {
        Experiment experiment(configuration(std::string(kind.name), recompute));
        const double measured = measured_bytes(experiment, 4, length);
        const double estimated = estimate_cost(experiment.config.model, experiment.task.interface,
                                               experiment.store.count(), {4, length})
                                     .training_bytes;
        EXPECT_LT(estimated, 1.5 * measured)
            << kind.name << ", length " << length << ", recompute " << recompute;
        EXPECT_GT(estimated, measured / 1.5)
            << kind.name << ", length " << length << ", recompute " << recompute;
      }
}

/// The head's logits, for every token, are what there is most of.
TEST(Cost, MemoryOfMaskedTokensIsWithinAFactorOfTheMeasuredPeak) {
  for (const std::string recompute : {"false", "true"}) {
    ExperimentConfig config = configuration("softmax", false, "objective: {kind: masked_tokens}\n");
    config::load_text(config,
                      "task: {vocabulary: 512}\nmodel: {positions: rotary, recompute: " + recompute + "}\n",
                      "more.yaml");
    Experiment experiment(config);
    std::vector<std::int32_t> tokens, position, offsets{0};
    for (int i = 0; i < 4 * 512; ++i) {
      tokens.push_back(1 + i % 15);
      position.push_back(i % 512);
      if (i % 512 == 511) offsets.push_back(i + 1);
    }
    reset_peak_memory();
    DeviceBatch batch;
    batch.layout = make_layout(offsets, position, {0, 1, 2, 3}, padded_length);
    batch.tokens = from_vector(tokens, {4 * 512});
    backward((*experiment.objective)(experiment.model, batch, true, experiment.state.score()).loss);
    const auto measured = static_cast<double>(memory_statistics().peak_bytes);
    const double estimated =
        estimate_cost(experiment.config.model, experiment.task.interface, experiment.store.count(), {4, 512})
            .training_bytes;
    EXPECT_LT(estimated, 1.5 * measured) << recompute;
    EXPECT_GT(estimated, measured / 1.5) << recompute;
  }
}

TEST(Cost, OperationsFollowTheFormula) {
  const ExperimentConfig config = configuration("softmax", false);
  const TaskInterface task{32, padded_length, 10, false};
  const double token = 4 * 64 * 64 + 2 * 64 * 128.0, attention = 2 * 300 * 300 * 64.0, head = 128 * (64 + 10.0);
  const Cost cost = estimate_cost(config.model, task, 0, {5, 300});
  EXPECT_DOUBLE_EQ(cost.forward_operations, 2 * 5 * (3 * (300 * token + attention) + head));
  EXPECT_DOUBLE_EQ(cost.training_operations, 3 * cost.forward_operations);

  const Cost again = estimate_cost(configuration("softmax", true).model, task, 0, {5, 300});
  EXPECT_DOUBLE_EQ(again.training_operations - cost.training_operations, 2 * 5 * 3 * (300 * token + attention));
  EXPECT_LT(again.training_bytes, cost.training_bytes);

  TaskInterface tokens = task;
  tokens.predicts_tokens = true;
  EXPECT_DOUBLE_EQ(estimate_cost(config.model, tokens, 0, {5, 300}).forward_operations,
                   2 * 5 * (3 * (300 * token + attention) + 300 * 64 * (64 + 32.0)));

  const Cost pairs = estimate_cost(config.model, {32, padded_length, 10, true}, 0, {5, 300});
  EXPECT_DOUBLE_EQ(pairs.forward_operations, 2 * 5 * (2 * 3 * (300 * token + attention) + 128 * (256 + 10.0)));
}

TEST(Cost, RowsOfBfloat16TakeHalfAndParametersAddTheirRoundedValues) {
  const ModelConfig model = configuration("softmax", false).model;
  const TaskInterface task{32, padded_length, 10, false};
  const auto bytes = [&](std::int64_t parameters, std::int64_t examples, DType dtype) {
    return estimate_cost(model, task, parameters, {examples, 300, dtype}).training_bytes;
  };
  EXPECT_DOUBLE_EQ(bytes(1000, 0, DType::float32), 16 * 1000);
  EXPECT_DOUBLE_EQ(bytes(1000, 0, DType::bfloat16), 18 * 1000);
  EXPECT_DOUBLE_EQ(bytes(0, 5, DType::bfloat16), bytes(0, 5, DType::float32) / 2);
}

}  // namespace
}  // namespace tern
