// The tasks on the user's own texts: what the model must know of them stands in the prepared data.
#include "tasks/bytes.h"
#include "tasks/kinds.h"
#include "tasks/prepared_data.h"
#include "tern/error.h"

namespace tern::tasks {
namespace {

struct TableConfig {
  std::filesystem::path data;
  std::int64_t max_length = 0;
  std::int64_t padded_length = 0;
  std::int64_t vocabulary = byte_vocabulary;
  void fields(Fields& f) {
    f("data", data, "folder with train.records, dev.records and test.records", not_empty()).changeable();
    f("max_length", max_length, "bytes kept of each text; 0 means as many as the prepared data hold",
      between(0, 1 << 24));
    f("padded_length", padded_length,
      "rows of the position table, divisor of padded_mean; 0 means as many as max_length", between(0, 1 << 24));
    f("vocabulary", vocabulary, "rows of the token table; the bytes take 257",
      between(byte_vocabulary, 1 << 24));
    f.require(padded_length == 0 || padded_length >= max_length, "padded_length",
              format_text("must be at least task.max_length ({})", max_length));
  }
};

/// The header of the training split, which must have been made for `kind`.
data::RecordHeader prepared_header(const std::filesystem::path& folder, std::string_view kind,
                                   const std::string& prepare_command) {
  const std::filesystem::path path = split_file(folder, "train");
  if (!std::filesystem::exists(path))
    throw_error(ExitCode::missing_input, "{}: the prepared data are missing; make them with: {}", path,
                prepare_command);
  data::RecordHeader header = data::RecordFile(path).header();
  if (header.task != kind)
    throw_error(ExitCode::bad_data, "{}: must hold data for the task {}, got {}; set task.kind or task.data",
                path, kind, header.task);
  return header;
}

Task table_task(const Choice& choice) {
  const auto& config = choice.as<TableConfig>();
  Task task;
  task.prepare_command = format_text("tern data prepare {} --train FILE --out {}", choice.kind(), config.data);
  const data::RecordHeader header = prepared_header(config.data, choice.kind(), task.prepare_command);
  const std::string where = split_file(config.data, "train").string();
  const io::Json options = io::parse_json(header.options, where);
  const bool is_regression = header.label_kind == data::LabelKind::target;
  task.max_length = config.max_length > 0 ? config.max_length : header.padded_length;
  if (config.padded_length > 0 && config.padded_length < task.max_length)
    throw_error(ExitCode::bad_config,
                "task.padded_length: must be at least the {} bytes that {} holds of a text, got {}",
                task.max_length, config.data, config.padded_length);
  task.interface.vocabulary = config.vocabulary;
  task.interface.padded_length = config.padded_length > 0 ? config.padded_length : task.max_length;
  task.interface.outputs = is_regression ? 1 : header.classes;
  task.interface.is_pair = header.sequences_per_record == 2;
  task.interface.is_regression = is_regression;
  task.interface.ids = header.vocabulary;
  for (const std::string_view split : split_names)
    (split == "train" ? task.train : split == "dev" ? task.dev : task.test) = split_file(config.data, split);
  task.text_columns = {io::json_strings(options, "texts", where),
                       io::json_boolean(options, "has_header", where)};
  if (is_regression) return task;
  task.class_names = io::json_strings(options, "class_names", where);
  if (std::ssize(task.class_names) != header.classes)
    throw_error(ExitCode::bad_data, "{}: must name its {} classes, got {} names; {}", where, header.classes,
                task.class_names.size(), data::prepare_again);
  return task;
}

TaskKind table_kind(std::string_view name, std::string_view summary) {
  return {name, summary, choice_kind<TableConfig>(name, summary), table_task};
}

}  // namespace

TaskKind classification_task() { return table_kind("classification", "a class for each of your own texts"); }
TaskKind pair_task() { return table_kind("pair", "a class for each pair of your own texts"); }
TaskKind regression_task() {
  return table_kind("regression", "a number for each of your own texts, or pairs of them");
}

}  // namespace tern::tasks
