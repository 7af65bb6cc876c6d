// Times one training step (forward, backward, AdamW) and prints one JSON line for each case.
//
//   train_step CONFIG [--set a.b=c]... [--length 2048] [--lengths FILE | --records FILE] [--outputs 10]
//              [--pair] [--repetitions 10] [--warm-up 2] [--eager]
//
// Random ids, every sequence `length` tokens; --lengths: lengths from a file, one number a line, no more than
// `length`. --records: batches of a prepared split at their real lengths. --outputs and --pair replace what the
// configured task says. On a GPU a step is what the trainer does: the batch is copied from where prefetching
// left it, graphs are launched (with --eager: kernels one by one), and device events around it give the time.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>

#include <CLI/CLI.hpp>

#include "app/experiment_options.h"
#include "base/cuda_memory.h"
#include "data/loader.h"
#include "tern/communicator.h"
#include "tern/memory.h"
#include "training/run_folder.h"
#include "training/splits.h"
#include "training/step_runner.h"

namespace {

using namespace tern;

struct Options {
  app::ExperimentOptions experiment;
  std::filesystem::path records, lengths;
  std::int64_t length = 2048, outputs = 0;
  bool is_pair = false;
  int repetitions = 10, warm_up = 2;
  bool is_eager = false;
};

/// Batches of random ids: every sequence has options.length tokens, or its length is the next of a file.
class RandomBatches {
 public:
  RandomBatches(const Experiment& experiment, const Options& options)
      : task_(experiment.task.interface),
        records_(experiment.config.training.batch_size / experiment.config.training.accumulate) {
    std::ifstream file(options.lengths);
    for (std::int64_t length = 0; file >> length;) lengths_.push_back(std::min(length, options.length));
    require(options.lengths.empty() || !lengths_.empty(), "--lengths: {} holds no number", options.lengths);
    if (lengths_.empty()) lengths_.push_back(options.length);
  }
  data::Batch next() {
    data::Batch batch;
    batch.records = records_;
    batch.padded_length = task_.padded_length;
    batch.offsets.push_back(0);
    const std::int64_t sequences = records_ * (task_.is_pair ? 2 : 1);
    for (std::int64_t s = 0; s < sequences; ++s) append(batch, lengths_[sequence_++ % lengths_.size()]);
    for (std::int64_t r = 0; r < records_; ++r)
      batch.labels.push_back(static_cast<std::int32_t>(r % task_.outputs));
    return batch;
  }

 private:
  void append(data::Batch& batch, std::int64_t length) const {
    static constexpr std::uint32_t step = 0;
    const RandomStream stream{stream_key(1, "benchmark"), &step};
    const auto ids = static_cast<std::uint32_t>(task_.vocabulary - 1);
    const std::int64_t sample = batch.sequences();
    for (std::int64_t i = 0; i < length; ++i) {
      const std::uint32_t word = stream.words(sample, static_cast<std::uint64_t>(i)).word[0];
      batch.tokens.push_back(1 + static_cast<std::int32_t>(word % ids));
      batch.position.push_back(static_cast<std::int32_t>(i));
    }
    batch.offsets.push_back(static_cast<std::int32_t>(batch.tokens.size()));
    batch.sample.push_back(sample);
    batch.longest = std::max(batch.longest, length);
  }
  TaskInterface task_;
  std::int64_t records_;
  std::vector<std::int64_t> lengths_;
  std::size_t sequence_ = 0;
};

/// Where batches come from: a record file, random ids of real lengths, or one batch that repeats.
BatchSource batch_source(const Experiment& experiment, const Communicator& communicator,
                         const Options& options) {
  if (!options.records.empty()) {
    const auto loader = std::make_shared<data::TrainLoader>(std::make_shared<data::RecordFile>(options.records),
                                                            training_loader_options(experiment, communicator));
    return [loader] { return std::optional(loader->next()); };
  }
  const auto batches = std::make_shared<RandomBatches>(experiment, options);
  if (!options.lengths.empty()) return [batches] { return std::optional(batches->next()); };
  return [batch = batches->next()] { return std::optional(batch); };
}

Task task_of(const ExperimentConfig& config, const Options& options) {
  Task task = make_task(config.task);
  task.interface.is_pair |= options.is_pair;
  if (options.outputs > 0) task.interface.outputs = options.outputs;
  return task;
}

std::string data_text(const Options& options) {
  if (!options.records.empty()) return options.records.filename().string();
  return options.lengths.empty() ? "random ids, full length" : "random ids, lengths of a file";
}

/// Milliseconds of each step on the device's own clock, and of all of them on the host's, divided by their
/// number.
struct Timing {
  std::vector<double> each;
  double mean = 0;
  std::int64_t tokens = 0;
};

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

/// Launches step after step, as training does: no outcome is waited for before the next step is enqueued.
Timing time_steps(StepRunner& runner, const ExperimentConfig& config, int first, int count, Device device) {
  Timing timing;
  const bool is_gpu = device.type == DeviceType::cuda;
  std::vector<DeviceEvent> events;
  if (is_gpu) events.resize(static_cast<std::size_t>(count) + 1);
  synchronize(device);
  if (is_gpu) events.front().record(device.index);
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) {
    const auto start = std::chrono::steady_clock::now();
    runner.launch(static_cast<std::uint32_t>(first + i), config.optimizer.learning_rate,
                  config.optimizer.beta1);
    if (is_gpu) events[static_cast<std::size_t>(i) + 1].record(device.index);
    while (runner.pending() > runner.most_pending()) timing.tokens += runner.take().tokens;
    if (!is_gpu) timing.each.push_back(milliseconds_since(start));
  }
  while (runner.pending() > 0) timing.tokens += runner.take().tokens;
  synchronize(device);
  timing.mean = milliseconds_since(begin) / count;
  for (std::size_t i = 1; i < events.size(); ++i)
    timing.each.push_back(static_cast<double>(events[i].since(events[i - 1])));
  std::sort(timing.each.begin(), timing.each.end());
  return timing;
}

void run(const Options& options) {
  ExperimentConfig config = app::load_experiment(options.experiment);
  if (options.is_eager) config.run.graphs = false;
  set_threads(static_cast<int>(config.run.threads));
  Experiment experiment(config, task_of(config, options));
  const auto communicator = solo_communicator();
  const Device device = experiment.device();
  GraphCache graphs(device, config.run.graphs);
  StepRunner runner(experiment, *communicator, batch_source(experiment, *communicator, options), graphs);
  time_steps(runner, config, 0, options.warm_up, device);
  reset_peak_memory();
  if (device.type == DeviceType::cuda) reset_device_memory_peak(device.index);
  const Timing timing = time_steps(runner, config, options.warm_up, options.repetitions, device);
  const std::int64_t device_bytes =
      device.type == DeviceType::cuda ? device_memory(device.index).peak_bytes : 0;
  const io::Json result{{"program", "train_step"},
                        {"attention", config.model.attention.kind()},
                        {"overrides", options.experiment.overrides},
                        {"data", data_text(options)},
                        {"batch", config.training.batch_size},
                        {"length", options.records.empty() && options.lengths.empty() ? options.length : 0},
                        {"tokens_per_step", timing.tokens / options.repetitions},
                        {"median_ms", timing.each[timing.each.size() / 2]},
                        {"minimum_ms", timing.each.front()},
                        {"mean_ms", timing.mean},
                        {"repetitions", options.repetitions},
                        {"peak_tensor_mib", static_cast<double>(memory_statistics().peak_bytes) / 1048576.0},
                        {"peak_device_mib", static_cast<double>(device_bytes) / 1048576.0},
                        {"device", device.type == DeviceType::cuda ? cuda_description() : "cpu"},
                        {"graphs", device.type == DeviceType::cuda && config.run.graphs},
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
  app.add_option("--lengths", options.lengths, "file of lengths of random sequences, one a line");
  app.add_option("--outputs", options.outputs, "classes, in place of the task's");
  app.add_flag("--pair", options.is_pair, "two sequences for each example");
  app.add_option("--repetitions", options.repetitions, "steps timed");
  app.add_option("--warm-up", options.warm_up, "steps before them; a GPU captures graphs in the first ones");
  app.add_flag("--eager", options.is_eager, "no graphs: kernels are launched one by one");
  CLI11_PARSE(app, count, values);
  try {
    run(options);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
