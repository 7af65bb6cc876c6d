#include "app/sweep_runner.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "app/output.h"
#include "base/clock.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "tern/build_info.h"
#include "tern/logging.h"
#include "tern/trainer.h"

namespace tern::app {
namespace {

namespace fs = std::filesystem;

constexpr auto poll_interval = std::chrono::milliseconds(50);
constexpr auto progress_interval = std::chrono::seconds(60);
constexpr std::int64_t log_cap = 64 << 20, result_cap = 4 << 20;
constexpr std::streamoff tail_bytes = 4096;

/// The words of a comma-separated list.
std::vector<std::string> listed(const std::string& text) {
  std::vector<std::string> words;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find(',', at), text.size());
    words.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

/// The last step in metrics.jsonl, 0 before the first.
std::int64_t step_of(const fs::path& run) {
  std::ifstream file(run / "metrics.jsonl", std::ios::ate | std::ios::binary);
  if (!file) return 0;
  file.seekg(std::max<std::streamoff>(0, static_cast<std::streamoff>(file.tellg()) - tail_bytes));
  std::int64_t step = 0;
  for (std::string line; std::getline(file, line);) {
    const io::Json row = io::Json::parse(line, nullptr, false);
    if (row.is_object() && row.contains("step") && row["step"].is_number_integer()) step = row["step"];
  }
  return step;
}

std::string log_from(const fs::path& file, std::uintmax_t begin) {
  const std::string text = fs::exists(file) ? io::read_file(file, log_cap) : "";
  return text.substr(std::min<std::size_t>(begin, text.size()));
}

}  // namespace

struct SweepRunner::Entry {
  PlannedRun run;
  std::unique_ptr<ChildProcess> process;  // while it runs
  std::size_t slot = 0;
  Clock::time_point began{};
  std::uintmax_t log_begin = 0;  // of what this attempt prints
  int code = 0;
  double seconds = 0;
  std::string device, error;
  bool was_tried = false;

  fs::path log() const { return run.folder / "output.txt"; }
  bool is_waiting() const { return run.is_chosen && !was_tried && run.state != RunState::done; }
  std::string accuracy() const {
    const fs::path file = run.folder / "result.json";
    if (run.state != RunState::done || !fs::exists(file)) return "-";
    const io::Json result = io::parse_json(io::read_file(file, result_cap), file.string());
    const bool is_there = result.contains("test") && result["test"].contains("accuracy") &&
                          result["test"]["accuracy"].is_number();
    return is_there ? percent_text(result["test"]["accuracy"].get<double>()) : "-";
  }
};

std::vector<SweepSlot> sweep_slots(int gpus, const std::optional<std::string>& visible, std::int64_t jobs) {
  const std::vector<std::string> names = listed(visible.value_or(""));
  std::vector<SweepSlot> slots;
  for (std::int64_t job = 0; job < jobs; ++job) {
    if (gpus == 0) slots.push_back({"CPU", ""});
    for (int gpu = 0; gpu < gpus; ++gpu) {
      const auto place = static_cast<std::size_t>(gpu);
      const bool is_named = visible && place < names.size();
      slots.push_back({"GPU " + std::to_string(gpu), is_named ? names[place] : std::to_string(gpu)});
    }
  }
  return slots;
}

std::string last_message(const std::string& log) {
  const std::size_t at = log.rfind("\ntern: ");
  std::string text = log.starts_with("tern: ") && at == log.npos ? log.substr(6)
                     : at == log.npos                            ? ""
                                                                 : log.substr(at + 7);
  while (text.ends_with("\n")) text.pop_back();
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

SweepRunner::SweepRunner(fs::path folder, std::vector<PlannedRun> runs, std::vector<SweepSlot> slots)
    : folder_(std::move(folder)), slots_(std::move(slots)), is_busy_(slots_.size(), false) {
  for (PlannedRun& run : runs) entries_.emplace_back().run = std::move(run);
}
SweepRunner::~SweepRunner() = default;

SweepRunner::Entry* SweepRunner::next_waiting() {
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [](const Entry& entry) { return entry.is_waiting(); });
  return found == entries_.end() ? nullptr : &*found;
}

void SweepRunner::start(Entry& entry, std::size_t slot) {
  entry.was_tried = true;
  entry.slot = slot;
  entry.began = Clock::now();
  entry.device = slots_[slot].device;
  io::make_directory(entry.run.folder);
  io::write_file(entry.run.folder / "experiment.yaml", config::dump(entry.run.config));
  entry.log_begin = fs::exists(entry.log()) ? fs::file_size(entry.log()) : 0;
  std::vector<std::string> arguments{"train", (entry.run.folder / "experiment.yaml").string(), "--out",
                                     entry.run.folder.string()},
      environment;
  // Runs that share the cores divide them.
  if (entry.run.config.run.threads == 0 && slots_.size() > 1) {
    const auto share = std::max<std::size_t>(1, std::thread::hardware_concurrency() / slots_.size());
    arguments.insert(arguments.end(), {"--set", "run.threads=" + std::to_string(share)});
  }
  if (!slots_[slot].visible.empty()) environment.push_back("CUDA_VISIBLE_DEVICES=" + slots_[slot].visible);
  entry.process = std::make_unique<ChildProcess>(arguments, environment, entry.log());
  entry.run.state = RunState::running;
  is_busy_[slot] = true;
  logging::info("sweep", "{} on {}: started", entry.run.name, entry.device);
}

void SweepRunner::finish(Entry& entry, int code) {
  entry.process.reset();
  is_busy_[entry.slot] = false;
  entry.code = code;
  entry.seconds = seconds_since(entry.began);
  entry.run.state = code == static_cast<int>(ExitCode::done)          ? RunState::done
                    : code == static_cast<int>(ExitCode::interrupted) ? RunState::interrupted
                                                                      : RunState::failed;
  if (entry.run.state == RunState::done)
    return logging::info("sweep", "{}: done, test accuracy {}, {} s", entry.run.name, entry.accuracy(),
                         fixed_text(entry.seconds, 1));
  entry.error = last_message(log_from(entry.log(), entry.log_begin));
  if (entry.error.empty()) entry.error = format_text("ended without a message; see {}", entry.log());
  logging::warning("sweep", "{}: {} (exit code {}): {}", entry.run.name, name_of(entry.run.state), code,
                   entry.error);
}

bool SweepRunner::start_some() {
  bool has_started = false;
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    if (is_busy_[slot]) continue;
    Entry* entry = next_waiting();
    if (entry == nullptr) break;
    start(*entry, slot);
    has_started = true;
  }
  return has_started;
}

bool SweepRunner::collect_ended() {
  bool has_ended = false;
  for (Entry& entry : entries_) {
    const std::optional<int> code = entry.process ? entry.process->exit_code() : std::nullopt;
    if (!code) continue;
    finish(entry, *code);
    has_ended = true;
  }
  return has_ended;
}

void SweepRunner::stop_running() {
  logging::info("sweep", "stopping: {} run(s) save and end", count(RunState::running));
  for (Entry& entry : entries_)
    if (entry.process) entry.process->signal(SIGTERM);
}

void SweepRunner::run() {
  Clock::time_point told = Clock::now();
  bool is_stopping = false;
  write_state();
  while (true) {
    bool has_changed = collect_ended();
    if (stop_requested() && !is_stopping) {
      is_stopping = true;
      stop_running();
    }
    if (!is_stopping) has_changed |= start_some();
    if (has_changed) write_state();
    if (count(RunState::running) == 0) return;
    if (Clock::now() - told >= progress_interval) {
      told = Clock::now();
      tell_progress();
    }
    std::this_thread::sleep_for(poll_interval);
  }
}

void SweepRunner::tell_progress() {
  std::string running;
  for (const Entry& entry : entries_)
    if (entry.process)
      running += format_text("{}{} {}/{}", running.empty() ? "" : ", ", entry.run.name,
                             step_of(entry.run.folder), entry.run.config.training.steps);
  logging::info("sweep", "{} of {} done, {} failed; {}", count(RunState::done), entries_.size(),
                count(RunState::failed), running);
}

std::int64_t SweepRunner::count(RunState state) const {
  return std::count_if(entries_.begin(), entries_.end(),
                       [&](const Entry& entry) { return entry.run.state == state; });
}

std::string SweepRunner::names(RunState state) const {
  std::string text;
  for (const Entry& entry : entries_)
    if (entry.run.state == state) text += (text.empty() ? "" : ", ") + entry.run.name;
  return text;
}

std::vector<std::vector<std::string>> SweepRunner::rows() const {
  std::vector<Row> rows{{"run", "state", "test accuracy", "seconds", "error"}};
  for (const Entry& entry : entries_)
    if (entry.run.is_chosen)
      rows.push_back({entry.run.name, std::string(name_of(entry.run.state)), entry.accuracy(),
                      entry.was_tried ? fixed_text(entry.seconds, 1) : "-", entry.error.substr(0, 100)});
  return rows;
}

void SweepRunner::write_state() const {
  io::Json runs = io::Json::array();
  for (const Entry& entry : entries_)
    runs.push_back({{"name", entry.run.name},
                    {"task", entry.run.task},
                    {"mechanism", entry.run.mechanism},
                    {"seed", entry.run.seed},
                    {"state", std::string(name_of(entry.run.state))},
                    {"device", entry.device},
                    {"exit_code", entry.code},
                    {"error", entry.error},
                    {"seconds", entry.seconds}});
  io::write_file(folder_ / "sweep.json",
                 io::dump_json({{"commit", build_info().commit}, {"runs", runs}}, 1) + "\n");
}

}  // namespace tern::app
