#include "tasks/task_file.h"

#include "io/atomic_file.h"
#include "tern/error.h"

namespace tern::tasks {
namespace {

constexpr std::int64_t size_cap = std::int64_t{1} << 24;

bool boolean_in(const io::Json& object, std::string_view key, const std::string& where) {
  const io::Json& value = io::json_member(object, key, where);
  if (!value.is_boolean()) throw_error(ExitCode::bad_data, "{}: {} must be true or false", where, key);
  return value.get<bool>();
}

std::vector<std::string> texts_in(const io::Json& object, std::string_view key, const std::string& where) {
  std::vector<std::string> texts;
  for (const io::Json& text : io::json_member(object, key, where)) {
    if (!text.is_string()) throw_error(ExitCode::bad_data, "{}: {} must be a list of texts", where, key);
    texts.push_back(text.get<std::string>());
  }
  return texts;
}

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
  task.mask_zero = boolean_in(json, "mask_zero", where);
  task.interface.outputs = io::json_integer(json, "outputs", where);
  task.interface.is_pair = boolean_in(json, "is_pair", where);
  task.interface.is_regression = boolean_in(json, "is_regression", where);
  task.class_names = texts_in(json, "class_names", where);
  task.text_columns = {texts_in(json, "text_columns", where), boolean_in(json, "text_header", where)};
  return task;
}

}  // namespace tern::tasks
