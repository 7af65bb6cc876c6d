#include "tasks/task_file.h"

#include "io/atomic_file.h"
#include "tern/error.h"

namespace tern::tasks {
namespace {

constexpr std::int64_t size_cap = std::int64_t{1} << 24;

}  // namespace

io::Json to_json(const Task& task) {
  return {{"vocabulary", task.interface.vocabulary},
          {"ids", task.interface.ids},
          {"padded_length", task.interface.padded_length},
          {"max_length", task.max_length},
          {"mask_zero", task.mask_zero},
          {"outputs", task.interface.outputs},
          {"is_pair", task.interface.is_pair},
          {"is_regression", task.interface.is_regression},
          {"class_names", task.class_names},
          {"text_columns", task.text_columns.names},
          {"text_header", task.text_columns.has_header}};
}

Task read_task(const std::filesystem::path& run) {
  const std::filesystem::path path = run / task_file_name;
  if (!std::filesystem::exists(path))
    throw_error(ExitCode::missing_input,
                "{}: the run's task is missing; `tern train` with the same arguments writes it", path);
  const std::string where = path.string();
  const io::Json json = io::parse_json(io::read_file(path, size_cap), where);
  Task task;
  task.interface.vocabulary = io::json_integer(json, "vocabulary", where);
  task.interface.ids = io::json_integer(json, "ids", where);
  task.interface.padded_length = io::json_integer(json, "padded_length", where);
  task.max_length = io::json_integer(json, "max_length", where);
  task.mask_zero = io::json_boolean(json, "mask_zero", where);
  task.interface.outputs = io::json_integer(json, "outputs", where);
  task.interface.is_pair = io::json_boolean(json, "is_pair", where);
  task.interface.is_regression = io::json_boolean(json, "is_regression", where);
  task.class_names = io::json_strings(json, "class_names", where);
  task.text_columns = {io::json_strings(json, "text_columns", where),
                       io::json_boolean(json, "text_header", where)};
  const TaskInterface& interface = task.interface;
  const auto names = static_cast<std::int64_t>(task.class_names.size());
  constexpr std::int64_t most = std::int64_t{1} << 31;
  if (interface.vocabulary < 1 || interface.vocabulary > most || interface.ids < 0 ||
      interface.ids > interface.vocabulary || interface.outputs < 1 || interface.outputs > most ||
      interface.padded_length < 0 || interface.padded_length > most || task.max_length < 0 ||
      task.max_length > most || (names > 0 && names != interface.outputs))
    throw_error(ExitCode::bad_data,
                "{}: its numbers must fit each other, got vocabulary {}, ids {}, outputs {}, class names {}, "
                "padded_length {}, max_length {}",
                where, interface.vocabulary, interface.ids, interface.outputs, names, interface.padded_length,
                task.max_length);
  return task;
}

}  // namespace tern::tasks
