#include "report/run_record.h"

#include <algorithm>
#include <fstream>
#include <tuple>

#include "io/atomic_file.h"
#include "io/hash.h"
#include "report/recipe.h"
#include "tern/error.h"

namespace tern::report {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t result_cap = 4 << 20;
constexpr std::size_t curve_points = 200;

double score_in(const io::Json& result, const char* split, const std::string& where) {
  return io::json_number(io::json_member(result, split, where), "accuracy", where);
}

Curve curve_in(const io::Json& points, const std::string& where) {
  Curve curve;
  for (const io::Json& point : points) {
    if (!point.is_array() || point.size() != 2 || !point[0].is_number() || !point[1].is_number())
      throw_error(ExitCode::bad_data, "{}: curves must hold [step, value] pairs, got {}", where,
                  io::dump_json(point));
    curve.emplace_back(point[0].get<double>(), point[1].get<double>());
  }
  return curve;
}

/// At most curve_points: means of neighbours, at the last of their steps.
Curve thinned(const Curve& curve) {
  const std::size_t count = std::min(curve.size(), curve_points);
  Curve out;
  for (std::size_t i = 0, begin = 0; i < count; ++i) {
    const std::size_t end = (i + 1) * curve.size() / count;
    double sum = 0;
    for (std::size_t at = begin; at < end; ++at) sum += curve[at].second;
    out.emplace_back(curve[end - 1].first, sum / static_cast<double>(end - begin));
    begin = end;
  }
  return out;
}

struct Metrics {
  Curve dev_accuracy, train_loss;
};

/// The rows of a run's metrics.jsonl; a line that a kill cut is passed over.
Metrics read_metrics(const fs::path& folder) {
  Metrics metrics;
  std::ifstream rows(folder / "metrics.jsonl");
  for (std::string line; std::getline(rows, line);) {
    const io::Json row = io::Json::parse(line, nullptr, false);
    if (!row.is_object() || !row.contains("step") || !row["step"].is_number()) continue;
    const bool is_dev = row.contains("kind") && row["kind"] == "dev";
    const char* value = is_dev ? "accuracy" : "loss";
    if (!row.contains(value) || !row[value].is_number()) continue;
    (is_dev ? metrics.dev_accuracy : metrics.train_loss).emplace_back(row["step"], row[value]);
  }
  return metrics;
}

void read_curves(const fs::path& file, RunRecord& run) {
  if (!run.result.contains("curves")) {
    const Metrics metrics = read_metrics(file.parent_path());
    run.dev_accuracy = thinned(metrics.dev_accuracy);
    run.train_loss = thinned(metrics.train_loss);
    return;
  }
  const std::string where = file.string();
  const io::Json& curves = run.result["curves"];
  run.dev_accuracy = curve_in(io::json_member(curves, "dev_accuracy", where), where);
  run.train_loss = curve_in(io::json_member(curves, "train_loss", where), where);
}

void read_scores(RunRecord& run, const std::string& where) {
  const io::Json& result = run.result;
  run.test = score_in(result, "test", where);
  if (io::json_integer(io::json_member(result, "test_drop_last", where), "examples", where) > 0)
    run.drop_last = score_in(result, "test_drop_last", where);
  run.dev = io::json_number(result, "dev_accuracy", where);
  run.majority = io::json_number(result, "test_majority_accuracy", where);
}

void read_facts(RunRecord& run, const std::string& where) {
  const io::Json& result = run.result;
  run.seed = io::json_unsigned(result, "seed", where);
  run.steps = io::json_integer(result, "steps", where);
  run.parameters = io::json_integer(result, "parameters", where);
  run.device_bytes = io::json_integer(io::json_member(result, "memory", where), "device_peak_bytes", where);
  run.seconds = io::json_number(result, "seconds", where);
  run.dev_seconds = io::json_number(result, "dev_seconds", where);
  run.test_seconds = io::json_number(result, "test_seconds", where);
  run.fingerprint = io::json_string(result, "fingerprint", where);
  run.finished = io::json_string(result, "finished", where);
  const io::Json& environment = io::json_member(result, "environment", where);
  run.commit = io::json_string(environment, "commit", where);
  const bool is_gpu = run.config_value("run.device") == "cuda";
  const std::string device = io::json_string(environment, is_gpu ? "gpu" : "processor", where);
  run.device = is_gpu ? device.substr(0, device.find(',')) : device;
}

void read_config(RunRecord& run, const std::string& where) {
  for (const auto& [key, value] : io::json_member(run.result, "config", where).items()) {
    if (!value.is_string()) throw_error(ExitCode::bad_data, "{}: config.{} must be text", where, key);
    run.config[key] = value.get<std::string>();
  }
  for (const char* split : {"train", "dev", "test"}) {
    const io::Json& data = io::json_member(io::json_member(run.result, "data", where), split, where);
    io::json_string(data, "content_xxh3_128", where);
    io::json_string(data, "task", where);
    if (io::json_integer(data, "records", where) < 0)
      throw_error(ExitCode::bad_data, "{}: data.{}.records must not be negative", where, split);
    if (!io::json_member(data, "options", where).is_object())
      throw_error(ExitCode::bad_data, "{}: data.{}.options must be a JSON object", where, split);
  }
}

bool is_run_folder(const fs::path& folder) { return fs::exists(folder / "config.resolved.yaml"); }

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder))
    if (!entry.path().filename().string().starts_with(".")) found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

/// How far a run without a result came; nothing orders before every number.
RunGap gap_of(const fs::path& folder, const std::string& state, const std::string& reason) {
  RunGap gap{folder.filename().string(), state, reason, {}, {}, folder};
  const Metrics metrics = read_metrics(folder);
  for (const auto& [step, loss] : metrics.train_loss) gap.step = std::max(gap.step, std::optional(step));
  for (const auto& [step, accuracy] : metrics.dev_accuracy) {
    gap.step = std::max(gap.step, std::optional(step));
    gap.dev_accuracy = std::max(gap.dev_accuracy, std::optional(accuracy));
  }
  return gap;
}

/// The name of a sweep's run, and so of a folder beside its others.
std::string folder_name(const io::Json& run, const std::string& where) {
  const std::string name = io::json_string(run, "name", where);
  constexpr std::size_t longest = 255;
  if (name.empty() || name.size() > longest || name.starts_with(".") ||
      name.find_first_of(std::string_view("/\0", 2)) != name.npos)
    throw_error(ExitCode::bad_data, "{}: a run's name must be that of a folder, got {}", where,
                io::dump_json(name).substr(0, 80));
  return name;
}

/// A sweep names all its runs, also those that never began.
void search_sweep(const fs::path& folder, Findings& found) {
  const std::string where = (folder / "sweep.json").string();
  const io::Json sweep = io::parse_json(io::read_file(where, result_cap), where);
  for (const io::Json& run : io::json_member(sweep, "runs", where)) {
    const std::string name = folder_name(run, where), state = io::json_string(run, "state", where);
    const std::string reason = io::json_string(run, "error", where);
    const bool is_new = state == "new";
    if (fs::exists(folder / name / "result.json"))
      found.runs.push_back(read_run(folder / name / "result.json"));
    else if (is_new && !fs::exists(folder / name))
      found.not_begun.insert(name);
    else
      found.gaps.push_back(gap_of(folder / name, is_new ? "unfinished" : state, reason));
  }
}

void search_folder(const fs::path& folder, Findings& found) {
  if (fs::exists(folder / "result.json")) return found.runs.push_back(read_run(folder / "result.json"));
  if (is_run_folder(folder)) return found.gaps.push_back(gap_of(folder, "unfinished", ""));
  if (fs::exists(folder / "sweep.json")) return search_sweep(folder, found);
  for (const fs::path& entry : entries_of(folder)) {
    if (fs::is_directory(entry) && !fs::is_symlink(entry))
      search_folder(entry, found);
    else if (entry.extension() == ".json")
      found.runs.push_back(read_run(entry));
  }
}

void search(const fs::path& path, Findings& found) {
  if (!fs::exists(path))
    throw_error(ExitCode::missing_input, "{}: there is no such run, sweep or ledger", path);
  const fs::path place = fs::weakly_canonical(path);
  fs::is_directory(place) ? search_folder(place, found) : found.runs.push_back(read_run(place));
}

/// By name, and once what several paths lead to. A run that began somewhere is not one that has not begun.
template <class Run>
void put_in_order(std::vector<Run>& runs, std::set<std::string>& not_begun) {
  const auto place = [](const Run& run) { return std::tie(run.name, run.source); };
  std::ranges::stable_sort(runs, {}, place);
  const auto doubles = std::ranges::unique(runs, {}, place);
  runs.erase(doubles.begin(), doubles.end());
  for (const Run& run : runs) not_begun.erase(run.name);
}

io::Json points_json(const Curve& curve) {
  io::Json points = io::Json::array();
  for (const auto& [step, value] : curve) points.push_back({step, value});
  return points;
}

/// The last part of a path in YAML, quoted or not; other values as they are.
std::string without_folders(const std::string& value) {
  const bool is_quoted = value.starts_with("\"") || value.starts_with("'");
  if (!value.substr(is_quoted ? 1 : 0).starts_with("/")) return value;
  return (is_quoted ? value.substr(0, 1) : "") + value.substr(value.rfind('/') + 1);
}

/// In all texts of a value.
void drop_folders(io::Json& value) {
  if (value.is_string()) value = without_folders(value.get<std::string>());
  if (value.is_structured())
    for (io::Json& member : value) drop_folders(member);
}

/// One line for each member: short, and readable in a diff.
std::string entry_text(const io::Json& entry) {
  std::string text;
  for (const auto& [key, value] : entry.items())
    text += (text.empty() ? "{\n " : ",\n ") + io::dump_json(key) + ": " + io::dump_json(value);
  return text + "\n}\n";
}

}  // namespace

std::string RunRecord::config_value(const std::string& key) const {
  const auto found = config.find(key);
  return found == config.end() ? "" : found->second;
}

std::string RunRecord::data_hash() const {
  std::string all;
  for (const char* split : {"train", "dev", "test"})
    all += result["data"][split]["content_xxh3_128"].get<std::string>();
  return io::to_hex(io::hash_of(std::as_bytes(std::span(all)))).substr(0, 8);
}

RunRecord read_run(const fs::path& file) {
  const std::string where = file.string();
  RunRecord run;
  run.source = file;
  const bool is_in_folder = file.filename() == "result.json";
  run.name = is_in_folder ? fs::absolute(file).parent_path().filename().string() : file.stem().string();
  run.result = io::parse_json(io::read_file(file, result_cap), where);
  read_config(run, where);
  read_facts(run, where);
  if (predicts_labels(run)) read_scores(run, where);
  read_curves(file, run);
  return run;
}

Findings find_runs(const std::vector<fs::path>& paths) {
  Findings found;
  for (const fs::path& path : paths) search(path, found);
  put_in_order(found.runs, found.not_begun);
  put_in_order(found.gaps, found.not_begun);
  return found;
}

io::Json ledger_entry(const RunRecord& run) {
  io::Json entry = run.result;
  drop_folders(entry);
  entry["curves"] = {{"dev_accuracy", points_json(run.dev_accuracy)},
                     {"train_loss", points_json(run.train_loss)}};
  return entry;
}

int add_to_ledger(const fs::path& ledger, const std::vector<RunRecord>& runs) {
  io::make_directory(ledger);
  int added = 0;
  for (const RunRecord& run : runs) {
    const std::string mark = "-" + run.fingerprint.substr(0, 8);
    const std::string stem = run.name.ends_with(mark) ? run.name : run.name + mark;
    added += fs::exists(ledger / (stem + ".json")) ? 0 : 1;
    io::write_file(ledger / (stem + ".json"), entry_text(ledger_entry(run)));
  }
  return added;
}

}  // namespace tern::report
