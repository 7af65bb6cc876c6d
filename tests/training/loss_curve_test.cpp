// Ten steps of training in float64 against PyTorch's, batch by batch.
#include <gtest/gtest.h>

#include "support/golden.h"
#include "support/tolerance.h"
#include "tern/experiment.h"
#include "tern/ops.h"

namespace tern {
namespace {

using test::difference;
using test::Golden;

ExperimentConfig config_of(const Golden& golden, const std::string& attention) {
  const io::Json& model = golden.config()[attention]["model"];
  const io::Json& task = golden.config()[attention]["task"];
  // JSON is YAML: the golden file's own sections are the configuration.
  io::Json document{{"model", model}, {"optimizer", golden.config()["optimizer"]}};
  if (attention == "softmax") document["model"]["attention"]["dropout"] = 0;
  document["task"] = {
      {"kind", "listops"}, {"max_length", task["padded_length"]}, {"padded_length", task["padded_length"]}};
  ExperimentConfig config;
  config::load_text(config, io::dump_json(document), "loss_curve.yaml");
  return config;
}

/// The model is built by hand: the golden one has fewer ids and classes than any task allows.
void check_loss_curve(const std::string& attention) {
  const Golden golden("loss_curve");
  const ExperimentConfig config = config_of(golden, attention);
  const io::Json& task = golden.config()[attention]["task"];
  TaskInterface interface;
  interface.vocabulary = task["vocabulary"].get<std::int64_t>();
  interface.padded_length = task["padded_length"].get<std::int64_t>();
  interface.outputs = task["outputs"].get<std::int64_t>();
  StepMemory state;
  ParameterStore store(1, state.step(), DType::float64);
  Model model(Scope(store), config.model, interface, [&](const Scope& scope, const AttentionShape& shape) {
    return find_attention_kind(config.model.attention.kind()).build(config.model.attention, scope, shape);
  });
  store.flatten();
  for (const Parameter& parameter : store.parameters())
    copy(golden.tensor("weight." + parameter.path), parameter.value);
  AdamW optimizer(store, config.optimizer);
  const auto schedule = make_schedule(config.schedule);
  std::vector<double> losses;
  for (int step = 0; step < 10; ++step) {
    const std::string batch = "batch." + std::to_string(step) + ".";
    const std::vector<std::int32_t> tokens = golden.integers(batch + "tokens"),
                                    labels = golden.integers(batch + "labels");
    const SequenceLayout layout =
        make_layout(golden.integers(batch + "offsets"), golden.integers(batch + "position"), {0, 1, 2, 3},
                    interface.padded_length);
    copy(zeros(store.gradients().shape(), DType::float64), store.gradients());
    state.begin(static_cast<std::uint32_t>(step), config.optimizer.learning_rate * schedule->at(step, 10).rate,
                config.optimizer.beta1);
    const Tensor logits = model(from_vector(tokens, {static_cast<std::int64_t>(tokens.size())}), layout, true);
    const Tensor loss = cross_entropy(logits, from_vector(labels, {4}), state.score());
    backward(loss);
    losses.push_back(loss.item() / 4);
    optimizer.step(state);
  }
  EXPECT_EQ(difference(losses, golden.values("losses." + attention), 1e-9), "");
  std::size_t compared = 0;
  for (const Parameter& parameter : store.parameters()) {
    const std::string name = "final." + attention + "." + parameter.path;
    EXPECT_EQ(difference(parameter.value.to_vector<double>(), golden.values(name), 1e-9), "") << name;
    ++compared;
  }
  EXPECT_EQ(compared, golden.names("final." + attention + ".").size());
}

TEST(loss_curve, softmax_equals_pytorch) { check_loss_curve("softmax"); }
TEST(loss_curve, yoso_expectation_equals_pytorch) { check_loss_curve("yoso"); }

}  // namespace
}  // namespace tern
