// Times one training step (forward, backward, AdamW) and prints one JSON line for each case.
//
//   train_step CONFIG [--set a.b=c]... [--length 2048 | --records FILE] [--repetitions 10] [--warm-up 2]
//
// Full length: random ids, every sequence `length` tokens. --records: batches of a prepared split at their real
// lengths.
#include <algorithm>
#include <chrono>
#include <cstdio>

#include <CLI/CLI.hpp>

#include "app/experiment_options.h"
#include "core/accumulate.h"
#include "data/loader.h"
#include "tern/memory.h"
#include "tern/ops.h"
#include "training/device_batch.h"
#include "training/run_folder.h"

namespace {

using namespace tern;

struct Options {
  app::ExperimentOptions experiment;
  std::filesystem::path records;
  std::int64_t length = 2048;
  int repetitions = 10, warm_up = 2;
};

data::Batch random_batch(const Experiment& experiment, std::int64_t length) {
  const std::int64_t sequences = experiment.config.training.batch_size;
  static constexpr std::uint32_t step = 0;
  const RandomStream stream{stream_key(1, "benchmark"), &step};
  data::Batch batch;
  batch.records = sequences;
  batch.longest = length;
  batch.padded_length = experiment.task.interface.padded_length;
  batch.offsets.push_back(0);
  for (std::int64_t s = 0; s < sequences; ++s) {
    for (std::int64_t i = 0; i < length; ++i) {
      const std::uint32_t word = stream.words(s, static_cast<std::uint64_t>(i)).word[0];
      batch.tokens.push_back(1 +
                             static_cast<std::int32_t>(
                                 word % static_cast<std::uint32_t>(experiment.task.interface.vocabulary - 1)));
      batch.position.push_back(static_cast<std::int32_t>(i));
    }
    batch.offsets.push_back(static_cast<std::int32_t>(batch.tokens.size()));
    batch.sample.push_back(s);
    batch.labels.push_back(static_cast<std::int32_t>(s % experiment.task.interface.outputs));
  }
  return batch;
}

void run_step(Experiment& experiment, const data::Batch& batch) {
  clear(experiment.store.gradients());
  const DeviceBatch x = to_device(batch);
  const Tensor loss = cross_entropy(experiment.model(x.tokens, x.layout, true), x.labels);
  backward(loss);
  experiment.state.learning_rate = experiment.config.optimizer.learning_rate;
  experiment.state.beta1 = experiment.config.optimizer.beta1;
  experiment.optimizer.step(experiment.state, loss.item(), batch.records);
  ++experiment.state.step;
}

void run(const Options& options) {
  const ExperimentConfig config = app::load_experiment(options.experiment);
  set_threads(static_cast<int>(config.run.threads));
  Experiment experiment(config);
  std::unique_ptr<data::TrainLoader> loader;
  if (!options.records.empty()) {
    data::LoaderOptions settings;
    settings.batch_size = config.training.batch_size;
    settings.max_length = experiment.task.max_length;
    settings.padded_length = experiment.task.interface.padded_length;
    loader = std::make_unique<data::TrainLoader>(std::make_shared<data::RecordFile>(options.records), settings);
  }
  const data::Batch fixed = loader ? data::Batch{} : random_batch(experiment, options.length);
  std::vector<double> milliseconds;
  std::int64_t tokens = 0;
  for (int i = 0; i < options.warm_up + options.repetitions; ++i) {
    if (i == options.warm_up) reset_peak_memory();
    const data::Batch batch = loader ? loader->next() : fixed;
    const auto start = std::chrono::steady_clock::now();
    run_step(experiment, batch);
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    if (i < options.warm_up) continue;
    milliseconds.push_back(elapsed.count());
    tokens += static_cast<std::int64_t>(batch.tokens.size());
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  const io::Json result{{"program", "train_step"},
                        {"attention", config.model.attention.kind()},
                        {"overrides", options.experiment.overrides},
                        {"data", loader ? options.records.filename().string() : "random ids, full length"},
                        {"batch", config.training.batch_size},
                        {"length", loader ? 0 : options.length},
                        {"tokens_per_step", tokens / options.repetitions},
                        {"median_ms", milliseconds[milliseconds.size() / 2]},
                        {"minimum_ms", milliseconds.front()},
                        {"repetitions", options.repetitions},
                        {"peak_tensor_mib", static_cast<double>(memory_statistics().peak_bytes) / 1048576.0},
                        {"environment", environment_json()}};
  std::printf("%s\n", io::dump_json(result).c_str());
  std::fflush(stdout);
}

}  // namespace

int main(int count, char** values) {
  Options options;
  CLI::App app{"times one training step"};
  app::add_experiment_options(app, options.experiment);
  app.add_option("--records", options.records, "record file: batches at their real lengths");
  app.add_option("--length", options.length, "tokens of every sequence of the random batch");
  app.add_option("--repetitions", options.repetitions, "steps timed");
  app.add_option("--warm-up", options.warm_up, "steps before them");
  CLI11_PARSE(app, count, values);
  try {
    run(options);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
