#include "tern/experiment.h"

namespace tern {
namespace {

MultiHeadAttention::Build attention_builder(const Choice& config) {
  return [&config](const Scope& scope, const AttentionShape& shape) {
    return find_attention_kind(config.kind()).build(config, scope, shape);
  };
}

Model flat_model(ParameterStore& store, const ExperimentConfig& config, const Task& task) {
  Model model(Scope(store), config.model, task.interface, attention_builder(config.model.attention));
  store.flatten();
  return model;
}

}  // namespace

void RunConfig::fields(Fields& f) {
  f("seed", seed, "seed of initial weights, shuffling, dropout and hashing");
  f("threads", threads, "CPU threads; 0 means one for each core; results do not depend on it", between(0, 4096))
      .changeable();
  f("device", device, "where to compute");
  f("out", out, "folder that holds run folders", not_empty()).changeable();
  f("name", name, "run folder's name; empty means the configuration's name, attention and seed").changeable();
}

void TrainingConfig::fields(Fields& f) {
  f("steps", steps, "updates", between(1, 4e9)).changeable();
  f("batch_size", batch_size, "examples of one update", between(1, 1 << 20));
  f("accumulate", accumulate, "parts that a batch is computed in, to save memory; must divide batch_size",
    at_least(1));
  f("evaluate_every", evaluate_every, "updates between evaluations on dev", at_least(1));
  f("evaluate_batches", evaluate_batches, "batches of one dev evaluation; 0 means all", at_least(0));
  f("checkpoint_every", checkpoint_every, "updates between checkpoints", at_least(1)).changeable();
  f("keep_checkpoints", keep_checkpoints, "newest checkpoints kept besides the best", between(1, 1e6))
      .changeable();
  f("log_every", log_every, "updates between rows of metrics.jsonl", at_least(1)).changeable();
  f("log_samples", log_samples, "whether those rows name the examples of their batch").changeable();
  f("max_skipped", max_skipped, "non-finite updates in a row that end the run", at_least(1)).changeable();
  f.require(accumulate < 1 || batch_size % accumulate == 0, "accumulate", "must divide training.batch_size");
}

void ExperimentConfig::fields(Fields& f) {
  f("run", run, "the run itself");
  f("task", task, "what to learn");
  f("model", model, "the encoder");
  f("optimizer", optimizer, "AdamW");
  f("schedule", schedule, "learning rate by step");
  f("training", training, "length, batches, evaluation, checkpoints");
}

Experiment::Experiment(const ExperimentConfig& chosen, DType dtype)
    : config(chosen),
      task(make_task(config.task)),
      store(config.run.seed, &state.step, dtype),
      model(flat_model(store, config, task)),
      optimizer(store, config.optimizer),
      schedule(make_schedule(config.schedule)) {}

}  // namespace tern
