#include "training/run_folder.h"

#include <fstream>

#include <sys/utsname.h>
#include <unistd.h>

#include "base/blas.h"
#include "io/atomic_file.h"
#include "tasks/task_file.h"
#include "tern/build_info.h"
#include "tern/logging.h"
#include "tern/memory.h"

namespace tern {
namespace {

namespace fs = std::filesystem;

/// What a message shows of a value.
std::string shown(const io::Json& value) {
  constexpr std::size_t most = 200;
  const std::string text = io::dump_json(value);
  return text.size() <= most ? text : io::utf8_text(text.substr(0, most)) + "...";
}

/// A resumed run may differ from the folder's configuration, which this returns, in changeable keys only.
ExperimentConfig check_configuration(const fs::path& file, const ExperimentConfig& config) {
  ExperimentConfig before;
  config::load(before, file);
  before.run = resolved(before.run);
  std::string differences;
  for (const config::Difference& difference : config::diff(before, config))
    if (!difference.changeable)
      differences += "\n  " + difference.key + ": " + difference.before.value_or("(absent)") + " there, " +
                     difference.after.value_or("(absent)") + " now";
  if (!differences.empty())
    throw_error(ExitCode::bad_config,
                "{}: holds a run with another configuration; choose another --out, or undo the changes:{}",
                file.parent_path(), differences);
  return before;
}

/// Most schedules are drawn over training.steps: with another number of them the rates of all steps are others.
void tell_changed_schedule(const ExperimentConfig& config, std::int64_t steps_before) {
  const std::int64_t steps = config.training.steps, last_of_both = std::min(steps, steps_before) - 1;
  const std::unique_ptr<Schedule> schedule = make_schedule(config.schedule);
  const double before = schedule->at(last_of_both, steps_before).rate,
               now = schedule->at(last_of_both, steps).rate;
  if (now != before)
    logging::warning(
        "train",
        "the schedule {} depends on training.steps, which was {} and is {}: at step {} the rate is {} "
        "of optimizer.learning_rate in place of {}",
        config.schedule.kind(), steps_before, steps, last_of_both + 1, now, before);
}

}  // namespace

void require_task_of_run(const fs::path& folder, const Task& task) {
  const fs::path file = folder / tasks::task_file_name;
  if (!fs::exists(file)) return;
  const io::Json before = tasks::to_json(tasks::read_task(folder)), now = tasks::to_json(task);
  std::string differences;
  for (const auto& [key, value] : now.items())
    if (before[key] != value)
      differences += "\n  " + key + ": " + shown(before[key]) + " there, " + shown(value) + " now";
  if (!differences.empty())
    throw_error(
        ExitCode::bad_data,
        "{}: the data must be those that the run began with; prepare them as they were (--classes gives "
        "the order of classes), or choose another --out:{}",
        file, differences);
}

RunFolder::RunFolder(const fs::path& path, const ExperimentConfig& config, const Task& task) : path_(path) {
  io::make_directory(path_);
  lock_.emplace(path_);
  io::make_directory(checkpoints());
  io::remove_temporaries(path_);
  // Without a checkpoint there is nothing to continue, and so nothing that another configuration could spoil.
  std::int64_t steps_before = config.training.steps;
  if (fs::exists(file("config.resolved.yaml")) && !fs::is_empty(checkpoints())) {
    steps_before = check_configuration(file("config.resolved.yaml"), config).training.steps;
    require_task_of_run(path_, task);
  }
  io::write_file(file("config.resolved.yaml"), config::dump(config));
  write_json(tasks::task_file_name, tasks::to_json(task));
  io::write_file(file("environment.json"), io::dump_json(environment_json(), 2) + "\n");
  logging::open_file(file("log.txt"));
  tell_changed_schedule(config, steps_before);
}

RunFolder::~RunFolder() { logging::close_file(); }

void RunFolder::set_result_aside(std::int64_t step) {
  if (!fs::exists(file("result.json"))) return;
  const std::string name = "result-" + std::to_string(step) + ".json";
  io::rename_path(file("result.json"), file(name));
  logging::info("train", "the earlier result is kept as {}", name);
}

void RunFolder::open_metrics(std::int64_t step) {
  const fs::path path = file("metrics.jsonl");
  std::string kept;
  if (fs::exists(path) && step > 0) {
    std::ifstream rows(path);
    for (std::string line; std::getline(rows, line);) {
      if (rows.eof()) break;  // a line without its end was cut by a kill
      const io::Json row = io::Json::parse(line, nullptr, false);
      if (row.is_object() && row.contains("step") && row["step"].is_number() && row["step"] <= step)
        kept += line + "\n";
    }
  }
  io::write_file(path, kept);
  metrics_ = std::make_unique<io::OutputFile>(path, io::OutputFile::Mode::append);
}

void RunFolder::write_row(const io::Json& row) {
  try {
    // A row that a full disk cut must not swallow the one after it.
    const std::string line = (is_cut_ ? "\n" : "") + io::dump_json(row) + "\n";
    metrics_->write(std::as_bytes(std::span(line)));
    is_cut_ = false;
  } catch (const Error& error) {
    if (!is_cut_) logging::warning("metrics", "rows are being lost: {}", error.what());
    is_cut_ = true;
  }
}

void RunFolder::write_json(std::string_view name, const io::Json& value) {
  io::write_file(file(name), io::dump_json(value, 2) + "\n");
}

io::Json environment_json() {
  utsname system{};
  uname(&system);
  std::string processor = "unknown";
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);)
    if (line.starts_with("model name")) {
      processor = line.substr(line.find(':') + 2);
      break;
    }
  return {{"tern", build_info().version},
          {"commit", build_info().commit},
          {"compiler", build_info().compiler},
          {"cuda", build_info().cuda},
          {"system", std::string(system.sysname) + " " + system.release},
          {"processor", processor},
          {"instruction_set", "x86-64-" + std::string(name(cpu_isa()))},
          {"threads", threads()},
          {"cores", static_cast<std::int64_t>(sysconf(_SC_NPROCESSORS_ONLN))},
          {"blas", blas::description()},
          {"gpu", cuda_devices() > 0 ? cuda_description() : "none"}};
}

io::Json memory_json() {
  io::Json modules = io::Json::object();
  for (const MemoryOwner& owner : memory_by_owner())
    modules[owner.path.empty() ? "outside modules" : owner.path] = owner.peak_bytes;
  return {{"peak_bytes", memory_statistics().peak_bytes}, {"peak_bytes_by_module", modules}};
}

}  // namespace tern
