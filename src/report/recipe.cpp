#include "report/recipe.h"

#include <algorithm>
#include <array>

#include "io/hash.h"

namespace tern::report {
namespace {

/// Names the run that a run began with.
constexpr const char* start_key = "training.start_from";

/// Keys that say where and how fast, but not what. The seed is what repetitions differ in.
constexpr std::array<std::string_view, 15> outside_the_recipe{"run.seed",
                                                              "run.threads",
                                                              "run.device",
                                                              "run.deterministic",
                                                              "run.graphs",
                                                              "run.out",
                                                              "run.name",
                                                              "task.data",
                                                              "model.recompute",
                                                              "training.accumulate",
                                                              "training.log_every",
                                                              "training.checkpoint_every",
                                                              "training.log_samples",
                                                              "training.keep_checkpoints",
                                                              "training.max_skipped"};

/// Records of train, dev and test as published.
struct BenchmarkSize {
  const char* task;
  std::array<std::int64_t, 3> records;
};
constexpr std::array benchmark_sizes{
    BenchmarkSize{"listops", {96000, 2000, 2000}},         BenchmarkSize{"text", {25000, 25000, 25000}},
    BenchmarkSize{"retrieval", {147086, 18090, 17437}},    BenchmarkSize{"image", {45000, 5000, 10000}},
    BenchmarkSize{"pathfinder32", {160000, 20000, 20000}}, BenchmarkSize{"path_x", {160000, 20000, 20000}}};

/// Settings of generators that decide how hard the task is, as published.
struct PublishedOption {
  const char *task, *key, *value;
};
constexpr std::array published_options{PublishedOption{"listops", "min_length", "501"},
                                       PublishedOption{"listops", "max_length", "1999"},
                                       PublishedOption{"listops", "depth", "10"},
                                       PublishedOption{"listops", "arguments", "10"},
                                       PublishedOption{"pathfinder32", "difficulty", "\"hard\""},
                                       PublishedOption{"path_x", "difficulty", "\"hard\""}};

const io::Json& split_of(const RunRecord& run, const char* split) { return run.result["data"][split]; }

/// Published files are complete but for what is known to be damaged in them: one part in a thousand.
bool has_size(const RunRecord& run, const BenchmarkSize& size) {
  const std::array<const char*, 3> splits{"train", "dev", "test"};
  for (std::size_t i = 0; i < splits.size(); ++i) {
    const std::int64_t records = split_of(run, splits[i]).value("records", std::int64_t{0});
    if (std::abs(records - size.records[i]) > size.records[i] / 1000) return false;
  }
  return true;
}

bool has_published_options(const RunRecord& run, const std::string& task) {
  const io::Json& options = split_of(run, "train")["options"];
  return std::all_of(published_options.begin(), published_options.end(), [&](const PublishedOption& known) {
    return known.task != task || !options.contains(known.key) ||
           io::dump_json(options[known.key]) == known.value;
  });
}

bool is_substitute(const RunRecord& run) {
  const io::Json& train = split_of(run, "train");
  const io::Json& options = train["options"];
  const auto note = options.find("note");
  return train.value("task", "").ends_with("_substitute") ||
         (note != options.end() && note->is_string() && note->get<std::string>().starts_with("a substitute"));
}

/// The last part of a path in YAML, quoted or not.
std::string last_part(std::string path) {
  std::erase_if(path, [](char letter) { return letter == '"' || letter == '\''; });
  while (path.ends_with('/')) path.pop_back();
  return path.substr(path.rfind('/') + 1);
}

/// Name of the run that a pre-trained one began with, without its seed: repetitions begin with different ones.
std::string start_name(const std::string& path) {
  const std::string value = last_part(path);
  const std::size_t seed = value.rfind("-seed");
  return seed == value.npos ? value : value.substr(0, seed);
}

bool is_set(const std::string& value) { return !value.empty() && value != "\"\"" && value != "null"; }

}  // namespace

std::string task_name(const RunRecord& run) {
  const std::string kind = run.config_value("task.kind");
  const std::string size = run.config_value("task.size");
  if (kind.starts_with("pathfinder")) return size == "128" ? "path_x" : kind + size;
  const bool is_benchmark =
      std::ranges::any_of(benchmark_sizes, [&](const BenchmarkSize& known) { return known.task == kind; });
  const std::string folder = last_part(run.config_value("task.data"));
  return is_benchmark || folder.empty() || folder == kind ? kind : folder + " (" + kind + ")";
}

std::string mechanism_name(const RunRecord& run) {
  static const std::map<std::string, std::string> names{{"none", "None"},
                                                        {"softmax", "Softmax"},
                                                        {"linear", "Linear Transformer"},
                                                        {"nystrom", "Nystromformer"},
                                                        {"linformer", "Linformer"},
                                                        {"performer", "Performer"},
                                                        {"reformer", "Reformer"},
                                                        {"longformer", "Longformer"}};
  const std::string prefix = "model.attention.", kind = run.config_value(prefix + "kind"),
                    start = is_pretrained(run) ? ", pre-trained" : "";
  if (kind == "yoso") {
    const std::string window = run.config_value(prefix + "conv_window");
    const std::string name = window.empty() || window == "0" ? "YOSO-" : "YOSO-C-";
    return name + (run.config_value(prefix + "form") == "sampled" ? run.config_value(prefix + "hashes") : "E") +
           start;
  }
  const auto known = names.find(kind);
  return (known == names.end() ? kind : known->second) + start;
}

std::map<std::string, std::string> recipe_of(const RunRecord& run) {
  std::map<std::string, std::string> recipe = run.config;
  for (const std::string_view key : outside_the_recipe) recipe.erase(std::string(key));
  if (const auto start = recipe.find(start_key); start != recipe.end()) {
    if (is_set(start->second))
      start->second = start_name(start->second);
    else
      recipe.erase(start);
  }
  return recipe;
}

std::string recipe_hash(const RunRecord& run) {
  std::string text;
  for (const auto& [key, value] : recipe_of(run)) text += key + ": " + value + "\n";
  return io::to_hex(io::hash_of(std::as_bytes(std::span(text)))).substr(0, 8);
}

bool predicts_labels(const RunRecord& run) {
  const std::string objective = run.config_value("objective.kind");
  const io::Json& result = run.result;
  return (objective.empty() || objective == "labels") && result.contains("test_majority_accuracy") &&
         result["test_majority_accuracy"].is_number();
}

bool is_pretrained(const RunRecord& run) { return is_set(run.config_value(start_key)); }

DataOrigin data_origin(const RunRecord& run) {
  const std::string task = task_name(run);
  if (is_substitute(run)) return DataOrigin::substitute;
  const auto size = std::find_if(benchmark_sizes.begin(), benchmark_sizes.end(),
                                 [&](const BenchmarkSize& known) { return known.task == task; });
  if (size == benchmark_sizes.end()) return DataOrigin::own;
  if (!has_size(run, *size) || !has_published_options(run, task)) return DataOrigin::variant;
  return split_of(run, "train")["options"].contains("sources") ? DataOrigin::published : DataOrigin::generated;
}

std::string origin_name(DataOrigin origin) {
  constexpr std::array names{"own", "published", "generated", "variant", "substitute"};
  return names[static_cast<std::size_t>(origin)];
}

std::string origin_remark(DataOrigin origin) {
  switch (origin) {
    case DataOrigin::generated:
      return "generated: data made here by the benchmark's rule and at its size, not the released files";
    case DataOrigin::variant:
      return "variant: shorter, fewer or otherwise other data than the benchmark's; not a score of the "
             "benchmark";
    case DataOrigin::substitute:
      return "substitute: other data in the place of the benchmark's; not a score of the benchmark";
    default:
      return "";
  }
}

}  // namespace tern::report
