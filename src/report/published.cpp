#include "report/published.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "report/recipe.h"

namespace tern::report {
namespace {

struct PublishedRow {
  Protocol protocol;
  const char* mechanism;
  std::array<double, 5> percent;  // in the order of averaged_tasks()
  const char* source;
  bool is_verified;
};

constexpr const char* lra_readme = "google-research/long-range-arena, README";
constexpr const char* nystrom_paper = "Xiong et al. 2021 (Nystromformer), table 3";
constexpr const char* yoso_paper = "Zeng et al. 2021 (YOSO), LRA table";

constexpr std::array rows{
    PublishedRow{Protocol::small, "None", {19.20, 61.11, 74.78, 33.86, 66.51}, yoso_paper, false},
    PublishedRow{Protocol::small, "Softmax", {37.10, 65.02, 79.35, 38.20, 74.16}, nystrom_paper, true},
    PublishedRow{Protocol::small, "YOSO-E", {37.30, 64.71, 81.16, 39.78, 72.90}, yoso_paper, false},
    PublishedRow{Protocol::small, "Nystromformer", {37.15, 65.52, 79.56, 41.58, 70.94}, nystrom_paper, true},
    PublishedRow{Protocol::small, "Longformer", {37.20, 64.60, 80.97, 39.06, 73.01}, yoso_paper, false},
    PublishedRow{Protocol::small, "Linformer", {37.25, 55.91, 79.37, 37.84, 67.60}, nystrom_paper, true},
    PublishedRow{Protocol::small, "Reformer", {19.05, 64.88, 78.64, 43.29, 69.36}, nystrom_paper, true},
    PublishedRow{Protocol::small, "Performer", {18.80, 63.81, 78.62, 37.07, 69.87}, nystrom_paper, true},
    PublishedRow{Protocol::small, "YOSO-32", {37.25, 63.12, 78.69, 40.21, 72.33}, yoso_paper, false},
    PublishedRow{Protocol::small, "YOSO-C-16", {37.40, 64.28, 77.61, 44.67, 71.86}, yoso_paper, false},
    PublishedRow{Protocol::original, "Softmax", {36.37, 64.27, 57.46, 42.44, 71.40}, lra_readme, true},
    PublishedRow{
        Protocol::original, "Linear Transformer", {16.13, 65.90, 53.09, 42.34, 75.30}, lra_readme, true},
    PublishedRow{Protocol::original, "Reformer", {37.27, 56.10, 53.40, 38.07, 68.50}, lra_readme, true},
    PublishedRow{Protocol::original, "Linformer", {35.70, 53.94, 52.27, 38.56, 76.34}, lra_readme, true},
    PublishedRow{Protocol::original, "Performer", {18.01, 65.40, 53.82, 42.77, 77.05}, lra_readme, true},
    PublishedRow{Protocol::original, "Longformer", {35.63, 62.85, 56.89, 42.22, 69.71}, lra_readme, true},
};

/// What a protocol fixes for a task; 0 where the task leaves no choice of the length.
struct Setting {
  Protocol protocol;
  const char* task;
  double layers, heads, width, hidden_width, batch_size, steps, padded_length;
};

constexpr std::array settings{
    Setting{Protocol::small, "listops", 2, 2, 64, 128, 32, 5000, 2048},
    Setting{Protocol::small, "text", 2, 2, 64, 128, 32, 20000, 4096},
    Setting{Protocol::small, "retrieval", 2, 2, 64, 128, 32, 30000, 4096},
    Setting{Protocol::small, "image", 2, 2, 64, 128, 256, 35000, 0},
    Setting{Protocol::small, "pathfinder32", 2, 2, 64, 128, 256, 62400, 0},
    Setting{Protocol::original, "listops", 4, 8, 512, 1024, 32, 5000, 2000},
    Setting{Protocol::original, "text", 4, 4, 256, 1024, 32, 20000, 4000},
    Setting{Protocol::original, "retrieval", 4, 4, 128, 512, 32, 5000, 4000},
    Setting{Protocol::original, "image", 1, 8, 128, 128, 256, 35000, 0},
    Setting{Protocol::original, "pathfinder32", 4, 4, 32, 32, 512, 62400, 0},
    Setting{Protocol::original, "path_x", 1, 2, 32, 32, 64, 500000, 0},
};

/// What a protocol fixes for all tasks.
struct FixedValue {
  Protocol protocol;
  const char *key, *value;
};
constexpr std::array choices{FixedValue{Protocol::small, "model.norm", "pre"},
                             FixedValue{Protocol::small, "model.positions", "learned"},
                             FixedValue{Protocol::small, "model.pooling", "padded_mean"},
                             FixedValue{Protocol::small, "model.dropout", "0.1"},
                             FixedValue{Protocol::small, "schedule.kind", "one_cycle"},
                             FixedValue{Protocol::original, "model.norm", "pre"}};

bool is_followed(const Setting& setting, const RunRecord& run) {
  const auto number = [&run](const char* key) { return std::atof(run.config_value(key).c_str()); };
  return number("model.layers") == setting.layers && number("model.heads") == setting.heads &&
         number("model.width") == setting.width && number("model.hidden_width") == setting.hidden_width &&
         number("training.batch_size") == setting.batch_size && number("training.steps") == setting.steps &&
         (setting.padded_length == 0 || number("task.padded_length") == setting.padded_length) &&
         std::all_of(choices.begin(), choices.end(), [&](const FixedValue& choice) {
           return choice.protocol != setting.protocol || run.config_value(choice.key) == choice.value;
         });
}

}  // namespace

std::string protocol_name(Protocol protocol) {
  return protocol == Protocol::original ? "A, original"
         : protocol == Protocol::small  ? "B, Nystromformer/YOSO"
                                        : "own";
}

Protocol protocol_of(const RunRecord& run) {
  if (is_pretrained(run)) return Protocol::none;
  const std::string task = task_name(run);
  const auto found = std::find_if(settings.begin(), settings.end(), [&](const Setting& setting) {
    return setting.task == task && is_followed(setting, run);
  });
  return found == settings.end() ? Protocol::none : found->protocol;
}

std::optional<PublishedScore> published_score(Protocol protocol, const std::string& mechanism,
                                              const std::string& task) {
  const auto column = std::find(averaged_tasks().begin(), averaged_tasks().end(), task);
  const auto row = std::find_if(rows.begin(), rows.end(), [&](const PublishedRow& known) {
    return known.protocol == protocol && known.mechanism == mechanism;
  });
  if (column == averaged_tasks().end() || row == rows.end()) return std::nullopt;
  const auto place = static_cast<std::size_t>(column - averaged_tasks().begin());
  return PublishedScore{row->percent[place], row->source, row->is_verified};
}

const std::vector<std::string>& averaged_tasks() {
  static const std::vector<std::string> names{"listops", "text", "retrieval", "image", "pathfinder32"};
  return names;
}

}  // namespace tern::report
