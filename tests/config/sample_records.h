// Records that use every kind of field, for the configuration tests.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tern/config.h"

namespace tern::sample {

enum class HashFamily { gaussian, interleaved, hadamard };
constexpr auto enum_names(HashFamily) {
  return std::array{EnumName{HashFamily::gaussian, "gaussian"},
                    EnumName{HashFamily::interleaved, "interleaved"},
                    EnumName{HashFamily::hadamard, "hadamard"}};
}

struct SoftmaxConfig {
  void fields(Fields&) {}
};

struct YosoConfig {
  int hashes = 32;
  std::optional<int> bits;
  HashFamily hash = HashFamily::gaussian;
  int conv_window = 0;
  void fields(Fields& f) {
    f("hashes", hashes, "random hash functions", at_least(1));
    f("bits", bits, "bits of one hash code; null = from the length", between(1, 20));
    f("hash", hash, "hash family");
    f("conv_window", conv_window, "length of the value skip convolution", at_least(0) && odd_or_zero());
  }
};

struct NystromConfig {
  int landmarks = 64;
  int inverse_steps = 6;
  int conv_window = 0;
  void fields(Fields& f) {
    f("landmarks", landmarks, "rows kept for the approximation", at_least(1)).renamed_from("segments");
    f("inverse_steps", inverse_steps, "iterations of the pseudo-inverse", between(1, 20));
    f("conv_window", conv_window, "length of the value skip convolution", odd_or_zero());
  }
};

inline std::span<const ChoiceKind> attention_kinds() {
  static const std::vector<ChoiceKind> kinds{choice_kind<SoftmaxConfig>("softmax", "exact attention"),
                                             choice_kind<YosoConfig>("yoso", "sampled by hashing"),
                                             choice_kind<NystromConfig>("nystrom", "landmarks")};
  return kinds;
}

struct ListOpsConfig {
  std::filesystem::path folder;
  int length = 2000;
  void fields(Fields& f) {
    f("folder", folder, "prepared data", not_empty());
    f("length", length, "longest sequence", positive());
  }
};

inline std::span<const ChoiceKind> task_kinds() {
  static const std::vector<ChoiceKind> kinds{choice_kind<ListOpsConfig>("listops", "nested lists")};
  return kinds;
}

struct RunConfig {
  std::string name = "first";
  std::uint64_t seed = 1;
  std::filesystem::path folder = "/runs";
  bool check_finite = false;
  std::vector<std::string> notes;
  std::vector<bool> switches;
  void fields(Fields& f) {
    f("name", name, "name | label of the run", not_empty());
    f("seed", seed, "seed of all random streams");
    f("folder", folder, "where results go").changeable();
    f("check_finite", check_finite, "look for the first non-finite value");
    f("notes", notes, "free text");
    f("switches", switches, "experimental parts");
  }
};

struct ModelConfig {
  int layers = 2;
  int heads = 2;
  int hidden_width = 64;
  double dropout = 0.1;
  std::vector<HashFamily> families;
  Choice attention{attention_kinds(), "softmax"};
  void fields(Fields& f) {
    f("layers", layers, "encoder layers", at_least(1));
    f("heads", heads, "attention heads", at_least(1));
    f("hidden_width", hidden_width, "width of the hidden state", at_least(1));
    f("dropout", dropout, "share of values dropped", at_least(0) && below(1));
    f("families", families, "hash families tried in turn");
    f("attention", attention, "attention mechanism");
    f.require(hidden_width % heads == 0, "heads", "must divide hidden_width");
  }
};

struct TrainingConfig {
  std::int64_t steps = 5000;
  double learning_rate = 1e-4;
  std::vector<double> betas{0.9, 0.999};
  std::vector<std::int64_t> milestones;
  std::string schedule = "linear";
  std::optional<double> clip;
  std::vector<std::filesystem::path> inputs;
  void fields(Fields& f) {
    f("steps", steps, "optimizer steps", at_least(1)).changeable().renamed_from("training.max_iterations");
    f("learning_rate", learning_rate, "peak learning rate", positive()).renamed_from("optimizer.lr");
    f("betas", betas, "decay of the moment estimates", between(0, 1) && not_empty());
    f("milestones", milestones, "steps at which to evaluate");
    f("schedule", schedule, "shape of the learning rate", one_of({"constant", "linear", "cosine"}))
        .renamed_from("run.decay");
    f("clip", clip, "largest gradient norm; null = off", positive());
    f("inputs", inputs, "extra files");
  }
};

struct ExperimentConfig {
  RunConfig run;
  ModelConfig model;
  TrainingConfig training;
  Choice task{task_kinds()};
  void fields(Fields& f) {
    f("run", run, "The run");
    f("model", model, "The encoder");
    f("training", training, "Optimizer and schedule");
    f("task", task, "What is learned");
  }
};

/// The least that a file must hold.
inline const std::string minimal_text = "task: {kind: listops, folder: /data}\n";

}  // namespace tern::sample
