#include "training/splits.h"

#include <algorithm>

#include "tasks/prepared_data.h"
#include "tern/logging.h"

namespace tern {
namespace {

constexpr std::string_view fitting_data = "name data that were prepared for this task";

/// A model of the task must be able to read the file.
void require_readable(const data::RecordFile& file, const TaskInterface& task) {
  const data::RecordHeader& header = file.header();
  const std::int64_t ids = task.ids > 0 ? task.ids : task.vocabulary;
  if (header.vocabulary > ids)
    throw_error(ExitCode::bad_data, "{}: must hold ids below {}, got a vocabulary of {}; {}", file.path(), ids,
                header.vocabulary, fitting_data);
  if (header.sequences_per_record != (task.is_pair ? 2 : 1))
    throw_error(ExitCode::bad_data, "{}: must hold {} sequence(s) a record, got {}; {}", file.path(),
                task.is_pair ? 2 : 1, header.sequences_per_record, fitting_data);
  if (task.predicts_tokens) return;
  const bool has_numbers = header.label_kind == data::LabelKind::target;
  if (has_numbers != task.is_regression)
    throw_error(ExitCode::bad_data, "{}: must hold {} as labels, got {}; {}", file.path(),
                task.is_regression ? "numbers" : "classes", has_numbers ? "numbers" : "classes", fitting_data);
  if (header.classes > task.outputs)
    throw_error(ExitCode::bad_data, "{}: must hold at most {} classes, got {}; {}", file.path(), task.outputs,
                header.classes, fitting_data);
}

/// Data of another task may fit in ids and lengths. A substitute for a task's data is called after it:
/// "retrieval_substitute".
void require_same_task(const data::RecordFile& file, const Task& task) {
  const std::string& found = file.header().task;
  if (task.name.empty() || found == task.name || found.starts_with(task.name + "_")) return;
  throw_error(ExitCode::bad_data, "{}: must hold data of the task {}, got {}; set task.kind or task.data",
              file.path(), task.name, found);
}

/// Labels are numbers: under other names, or in another order, they would be scored as what they are not.
void require_same_classes(const data::RecordFile& file, const Task& task) {
  if (task.interface.predicts_tokens || task.class_names.empty()) return;
  const io::Json options = io::parse_json(file.header().options, file.path().string());
  const auto names = options.find("class_names");
  if (names == options.end() || *names == io::Json(task.class_names)) return;
  throw_error(ExitCode::bad_data, "{}: the classes must be {} in this order, got {}; prepare it with --classes",
              file.path(), io::dump_json(task.class_names), io::dump_json(*names));
}

void require_fitting(const data::RecordFile& file, const Task& task) {
  require_readable(file, task.interface);
  require_same_classes(file, task);
}

std::shared_ptr<const data::RecordFile> open_verified(const std::filesystem::path& path) {
  auto file = std::make_shared<const data::RecordFile>(path);
  file->verify();
  return file;
}

}  // namespace

std::shared_ptr<const data::RecordFile> open_records(const std::filesystem::path& path, const Task& task) {
  auto file = open_verified(path);
  require_fitting(*file, task);
  return file;
}

std::shared_ptr<const data::RecordFile> open_split(const std::filesystem::path& path, const Task& task) {
  if (!std::filesystem::exists(path))
    throw_error(ExitCode::missing_input, "{}: the prepared data are missing; make them with: {}", path,
                task.prepare_command);
  auto file = open_verified(path);  // damage is told before the first step, not at the first evaluation
  require_same_task(*file, task);   // before what follows from it
  require_fitting(*file, task);
  const std::string note = file->header().split == "train" ? tasks::data_note(file->header()) : "";
  if (!note.empty()) logging::warning("data", "{}: the data are {}", path, note);
  return file;
}

data::LoaderOptions evaluation_loader_options(const Experiment& experiment) {
  data::LoaderOptions options;
  options.batch_size = experiment.config.training.batch_size;
  options.max_length = experiment.task.max_length;
  options.padded_length = experiment.task.interface.padded_length;
  options.mask_zero = experiment.task.mask_zero;
  return options;
}

data::LoaderOptions training_loader_options(const Experiment& experiment, const Communicator& communicator) {
  data::LoaderOptions options = evaluation_loader_options(experiment);
  options.batch_size /= experiment.config.training.accumulate;
  options.seed = experiment.config.run.seed;
  options.rank = communicator.rank();
  options.world_size = communicator.size();
  return options;
}

double majority_share(const data::RecordFile& file) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(file.header().classes));
  for (std::int64_t r = 0; r < file.count(); ++r) ++counts[static_cast<std::size_t>(file.label(r))];
  return static_cast<double>(*std::max_element(counts.begin(), counts.end())) /
         static_cast<double>(file.count());
}

}  // namespace tern
