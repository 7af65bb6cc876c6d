// A whole training run small enough for tests: generated ListOps trees, a two-head encoder, a handful of
// updates.
#pragma once

#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "io/file_system.h"
#include "io/json.h"
#include "support/temporary_folder.h"
#include "tasks/listops_generator.h"
#include "tern/trainer.h"

namespace tern::test {

/// Injects one fault of the file layer (io/file_system.h) while it lives.
class FileFault {
 public:
  explicit FileFault(const std::string& plan) {
    ::setenv("TERN_FAULT", plan.c_str(), 1);
    io::reset_faults();
  }
  ~FileFault() {
    ::unsetenv("TERN_FAULT");
    io::reset_faults();
  }
  FileFault(const FileFault&) = delete;
  FileFault& operator=(const FileFault&) = delete;
};

/// Writes train, dev and test splits of distinct trees of 5 to 40 tokens.
inline void prepare_tiny_data(const std::filesystem::path& folder, std::int64_t train = 300,
                              std::int64_t dev = 64, std::int64_t test = 70) {
  tasks::ListopsOptions options;
  options.min_length = 5;
  options.max_length = 40;
  options.depth = 4;
  options.arguments = 4;
  options.train = train;
  options.dev = dev;
  options.test = test;
  options.seed = 11;
  tasks::Preparation preparation({.folder = folder, .force = true}, tasks::listops_header(options));
  tasks::prepare_listops(options, preparation);
}

/// One layer of width 16 on the data in `folder`; `attention` is a kind; `overrides` are "key=value".
inline ExperimentConfig tiny_config(const std::filesystem::path& folder, const std::string& attention,
                                    const std::vector<std::string>& overrides = {}) {
  // One thread: what is this small gains nothing from a second, and suffers where tests run side by side.
  std::vector<std::string> all{"run.threads=1",
                               "run.device=cpu",
                               "task.data=" + folder.string(),
                               "task.max_length=40",
                               "task.padded_length=48",
                               "model.width=16",
                               "model.heads=2",
                               "model.hidden_width=24",
                               "model.head_width=16",
                               "model.layers=1",
                               "model.attention.kind=" + attention,
                               "optimizer.learning_rate=3e-3",
                               "training.batch_size=16",
                               "training.steps=12",
                               "training.evaluate_every=5",
                               "training.checkpoint_every=3",
                               "training.log_every=1"};
  if (attention == "yoso") all.insert(all.end(), {"model.attention.hashes=6", "model.attention.bits=4"});
  all.insert(all.end(), overrides.begin(), overrides.end());
  ExperimentConfig config;
  config::load_text(config, "{run: {seed: 3}}", "tiny.yaml", all);
  return config;
}

/// Sets the number of threads while it lives.
class ThreadScope {
 public:
  explicit ThreadScope(std::int64_t count) : before_(threads()) { set_threads(static_cast<int>(count)); }
  ~ThreadScope() { set_threads(before_); }
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int before_;
};

/// Opens the run in `folder`, continuing it if it holds a checkpoint, and trains to the end in this process.
/// `opened` is called between the two.
inline RunResult train_tiny(const ExperimentConfig& config, const std::filesystem::path& folder,
                            const std::function<void(Experiment&)>& opened = {}) {
  const ThreadScope scope(config.run.threads);
  Experiment experiment(config);
  const auto communicator = solo_communicator();
  RunOptions options;
  options.folder = folder;
  Trainer trainer(experiment, *communicator, options);
  if (opened) opened(experiment);
  return trainer.run();
}

/// The rows of a JSON Lines file, without the member "seconds".
inline std::vector<std::string> metrics_rows(const std::filesystem::path& file) {
  std::vector<std::string> rows;
  const std::string text = read_bytes(file);
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    if (end == text.npos) break;
    io::Json row = io::parse_json(text.substr(begin, end - begin), file.string());
    row.erase("seconds");
    rows.push_back(io::dump_json(row));
    begin = end + 1;
  }
  return rows;
}

}  // namespace tern::test
