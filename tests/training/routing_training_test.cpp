// Centroids over whole runs: state that is trained without an optimizer.
#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "support/temporary_folder.h"
#include "support/tiny_run.h"
#include "support/tolerance.h"
#include "tern/checkpoint.h"
#include "tern/ops.h"

namespace tern {
namespace {

using test::difference;
using test::TemporaryFolder;
using test::tiny_config;

const std::string centroids = "encoder.layers.0.attention.centroids";

const Parameter& centroids_of(const Experiment& experiment) {
  for (const Parameter& parameter : experiment.store.parameters())
    if (parameter.path == centroids) return parameter;
  throw_error(ExitCode::internal, "there is no {}", centroids);
}

ExperimentConfig config_for(const std::filesystem::path& data, std::vector<std::string> overrides = {}) {
  overrides.insert(overrides.end(), {"model.attention.clusters=4", "model.attention.decay=0.9"});
  return tiny_config(data, "routing", overrides);
}

std::vector<double> values_after(const ExperimentConfig& config, const std::filesystem::path& folder, int steps,
                                 DType dtype = DType::float32) {
  Experiment experiment(config, dtype);
  const auto communicator = solo_communicator();
  RunOptions options;
  options.folder = folder;
  Trainer trainer(experiment, *communicator, options);
  for (int step = 0; step < steps; ++step) trainer.step();
  return experiment.store.values().to_vector<double>();
}

/// Mean cosine of the routed tokens of the training data with their nearest centroid, as the loss of the
/// commitment is: from the gradient of the centroids, c . dL/dc = -weight * that mean.
double nearness(Experiment& experiment) {
  const Parameter& parameter = centroids_of(experiment);
  const auto gradient = gradient_of(parameter.value).to_vector<double>(),
             value = parameter.master.to_vector<double>();
  double total = 0;
  for (std::size_t i = 0; i < value.size(); ++i) total -= gradient[i] * value[i];
  return total;
}

TEST(routing_training, centroids_move_to_the_tokens_without_the_optimizer) {
  const TemporaryFolder folder;
  test::prepare_tiny_data(folder.path());
  // a rate of nearly zero: nothing but the centroids moves
  Experiment experiment(
      config_for(folder.path(), {"optimizer.learning_rate=1e-12", "training.steps=60",
                                 "training.evaluate_every=60", "training.checkpoint_every=60"}));
  const auto communicator = solo_communicator();
  RunOptions options;
  options.folder = folder / "run";
  Trainer trainer(experiment, *communicator, options);
  const auto start = centroids_of(experiment).master.to_vector<double>();
  trainer.step();
  const double before = nearness(experiment);
  EXPECT_NE(centroids_of(experiment).master.to_vector<double>(), start);
  for (int step = 0; step < 40; ++step) trainer.step();
  EXPECT_GT(nearness(experiment), 1.05 * before);
  const Tensor rows = centroids_of(experiment).master;
  EXPECT_EQ(difference(norm(rows, 2).to_vector<double>(), std::vector<double>(4, 1.0), 1e-6), "");
}

TEST(routing_training, is_the_same_with_recomputed_activations_and_other_thread_counts) {
  const TemporaryFolder folder;
  test::prepare_tiny_data(folder.path());
  const auto plain = values_after(config_for(folder.path()), folder / "plain", 4);
  EXPECT_EQ(values_after(config_for(folder.path(), {"model.recompute=true"}), folder / "again", 4), plain);
  EXPECT_EQ(values_after(config_for(folder.path(), {"run.threads=3"}), folder / "threads", 4), plain);
}

/// Steps of which none is finite: rows that are no numbers are routed too.
TEST(routing_training, a_diverging_run_leaves_finite_centroids) {
  const TemporaryFolder folder;
  test::prepare_tiny_data(folder.path());
  const auto values =
      values_after(config_for(folder.path(), {"optimizer.learning_rate=1e30"}), folder / "run", 8);
  EXPECT_TRUE(std::all_of(values.begin(), values.end(), [](double x) { return std::isfinite(x); }));
}

TEST(routing_training, a_resumed_run_ends_with_the_same_bits) {
  const TemporaryFolder folder;
  test::prepare_tiny_data(folder.path());
  const ExperimentConfig config = config_for(folder.path(), {"training.keep_checkpoints=9"});
  const RunResult whole = test::train_tiny(config, folder / "whole");
  RunOptions options;
  options.folder = folder / "resumed";
  options.resume = ResumeMode::path;
  options.checkpoint = checkpoint_path(folder / "whole" / "checkpoints", 9);
  Experiment resumed(config);
  const auto start = centroids_of(resumed).master.to_vector<double>();
  const auto communicator = solo_communicator();
  Trainer trainer(resumed, *communicator, options);
  EXPECT_NE(centroids_of(resumed).master.to_vector<double>(), start);
  EXPECT_EQ(trainer.run().fingerprint, whole.fingerprint);
}

}  // namespace
}  // namespace tern
