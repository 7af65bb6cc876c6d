// tern predict RUN_OR_CHECKPOINT
#include "training/predict.h"

#include <cstdio>
#include <deque>

#include "app/commands.h"
#include "app/output.h"
#include "app/run_config.h"
#include "app/score_writer.h"
#include "app/table_options.h"
#include "data/loader.h"
#include "tasks/bytes.h"
#include "tasks/task_file.h"
#include "tern/logging.h"
#include "training/run_files.h"
#include "training/splits.h"

namespace tern::app {
namespace {

namespace fs = std::filesystem;

struct PredictOptions {
  fs::path source, input, records, out;
  std::string text, second;
  bool has_header = false, force = false;
  std::optional<io::TableFormat> format, out_format;
  std::int64_t batch_size = 0, allowed_bad = 0;
  std::vector<std::string> overrides;

  bool writes_file() const { return !out.empty() && out != "-"; }
};

/// A trained model with its own task.
struct Predictor {
  std::unique_ptr<Experiment> experiment;
  std::int64_t batch_size = 0;
  const Task& task() const { return experiment->task; }
};

Predictor load_predictor(const PredictOptions& options) {
  const ChosenCheckpoint chosen = choose_checkpoint(options.source);
  const fs::path run = run_folder_of(options.source);
  const ExperimentConfig config = load_run_config(run, options.overrides, {});  // task.json has the task
  set_threads(static_cast<int>(config.run.threads));
  Predictor predictor;
  predictor.experiment = std::make_unique<Experiment>(config, tasks::read_task(run));
  load_parameters(chosen.parameters(), predictor.experiment->store);
  predictor.experiment->state.set_step(static_cast<std::uint32_t>(chosen.step));  // as evaluation does
  const TrainingConfig& training = predictor.experiment->config.training;
  predictor.batch_size =
      options.batch_size > 0 ? options.batch_size : training.batch_size / training.accumulate;
  logging::info("predict", "{}", chosen.path);
  return predictor;
}

/// Rows of a table as batches; remembers which of them could not be read until their turn to be written.
class TableInput {
 public:
  TableInput(io::TableReader reader, const Predictor& predictor, std::int64_t allowed_bad)
      : reader_(std::move(reader)), predictor_(predictor), allowed_bad_(allowed_bad) {}

  std::optional<data::Batch> next() {
    std::vector<std::vector<std::string>> records;
    while (static_cast<std::int64_t>(records.size()) < predictor_.batch_size) {
      std::optional<io::TableRow> row = reader_.next();
      if (!row) break;
      if (!row->fault.empty()) row->fault = reader_.place() + ": " + row->fault;
      if (!row->fault.empty() && ++bad_ > allowed_bad_)
        throw_error(ExitCode::bad_data,
                    "{}; repair the table, or let such rows go without scores by --allow-bad", row->fault);
      faults_.push_back(row->fault);
      if (row->fault.empty()) records.push_back(std::move(row->fields));
    }
    if (records.empty()) return {};
    const std::int64_t first = std::exchange(read_, read_ + static_cast<std::int64_t>(records.size()));
    return tasks::byte_batch(records, first, predictor_.task());
  }

  /// Tells `writer` of the rows without scores that come before the next row with them.
  void write_faults(ScoreWriter& writer) {
    for (; !faults_.empty() && !faults_.front().empty(); faults_.pop_front())
      writer.write_fault(faults_.front());
  }
  void pass_row() { faults_.pop_front(); }
  std::int64_t bad() const { return bad_; }

 private:
  io::TableReader reader_;
  const Predictor& predictor_;
  std::int64_t allowed_bad_, bad_ = 0, read_ = 0;
  std::deque<std::string> faults_;  // of the rows that are not written yet; empty for those with scores
};

io::TableReader open_table(const PredictOptions& options, const Task& task) {
  io::TableOptions table;
  table.columns = task.text_columns.names;
  table.has_header = options.has_header || (options.text.empty() && task.text_columns.has_header);
  const std::size_t texts = task.interface.is_pair ? 2 : 1;
  if (table.columns.size() != texts)
    throw_error(ExitCode::failed,
                "{}: the run's task must read texts, which it does not; give prepared data with "
                "--records",
                options.source);
  if (!options.text.empty()) table.columns[0] = options.text;
  require(options.second.empty() || texts == 2,
          "--second: the run's task must read pairs of texts, got one of texts");
  if (!options.second.empty()) table.columns[1] = options.second;
  const bool is_stdin = options.input == "-";
  table.format = options.format.value_or(io::table_format_of(options.input));
  return {is_stdin ? "stdin" : options.input.string(),
          is_stdin ? io::stream_lines(stdin, "stdin") : io::file_lines(options.input), table};
}

void predict_table(const PredictOptions& options, const Predictor& predictor, ScoreWriter& writer) {
  TableInput input(open_table(options, predictor.task()), predictor, options.allowed_bad);
  const auto outputs = static_cast<std::size_t>(predictor.task().interface.outputs);
  predict(
      *predictor.experiment, [&] { return input.next(); }, predictor.batch_size,
      [&](std::int64_t records, std::span<const double> numbers) {
        for (std::int64_t r = 0; r < records; ++r, numbers = numbers.subspan(outputs)) {
          input.write_faults(writer);
          writer.write(numbers.first(outputs));
          input.pass_row();
        }
        if (!options.writes_file()) std::fflush(stdout);
      });
  input.write_faults(writer);
  if (input.bad() > 0) logging::warning("predict", "{} rows could not be read and have no scores", input.bad());
}

std::string label_text(const data::RecordFile& file, std::int64_t record, const Task& task) {
  if (task.interface.is_regression) return to_text(file.target(record));
  const auto label = static_cast<std::size_t>(file.label(record));
  return label < task.class_names.size() ? task.class_names[label] : std::to_string(label);
}

void predict_records(const PredictOptions& options, const Predictor& predictor, ScoreWriter& writer) {
  const auto file = open_records(options.records, predictor.task());
  data::LoaderOptions loading = evaluation_loader_options(*predictor.experiment);
  loading.batch_size = predictor.batch_size;
  data::EvalLoader loader(file, loading);
  const auto outputs = static_cast<std::size_t>(predictor.task().interface.outputs);
  predict(
      *predictor.experiment, [&] { return loader.next(); }, predictor.batch_size,
      [&](std::int64_t records, std::span<const double> numbers) {
        for (std::int64_t r = 0; r < records; ++r, numbers = numbers.subspan(outputs))
          writer.write(numbers.first(outputs), label_text(*file, writer.rows(), predictor.task()));
      });
}

void predict_rows(const PredictOptions& options) {
  if (options.writes_file() && fs::exists(options.out) && !options.force)
    throw_error(ExitCode::cannot_create, "{}: is there already; choose another --out, or --force to replace it",
                options.out);
  const Predictor predictor = load_predictor(options);
  const bool has_labels = !options.records.empty();
  const io::TableFormat format = options.out_format.value_or(
      options.writes_file() && options.out.extension() == ".tsv" ? io::TableFormat::tsv
                                                                 : io::TableFormat::json_lines);
  ScoreWriter writer(options.writes_file() ? std::optional(options.out) : std::nullopt, format,
                     predictor.task(), has_labels);
  if (has_labels)
    predict_records(options, predictor, writer);
  else
    predict_table(options, predictor, writer);
  writer.finish();
  logging::info("predict", "{} rows", writer.rows());
}

}  // namespace

void add_predict_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("predict", "score new records with a trained model");
  auto options = std::make_shared<PredictOptions>();
  command->footer(
      "Examples: tern predict runs/stars --input new.tsv --out scores.jsonl\n"
      "          cat new.txt | tern predict runs/stars --input - --text 1");
  const auto add = [&](const std::string& flag, auto& value, const std::string& meaning) {
    return command->add_option(flag, value, meaning);
  };
  add("source", options->source, "run folder (its best checkpoint on dev), checkpoint, or .safetensors file")
      ->required();
  CLI::Option* input = add("--input", options->input,
                           "table of texts: TSV or JSON Lines (.jsonl); - is stdin; or else --records");
  CLI::Option* records =
      add("--records", options->records, "prepared data, whose labels are written beside the scores")
          ->excludes(input);
  add("--out", options->out, "file for the scores, TSV if it ends in .tsv (default: JSON Lines on stdout)");
  add("--text", options->text, "column of the text (default: as in the training table)")->excludes(records);
  add("--second", options->second, "column of a pair's second text (default: as in the training table)")
      ->excludes(records);
  command
      ->add_flag("--header", options->has_header,
                 "skip the first line of a TSV; implied where a column is given by name")
      ->excludes(records);
  add_format_option(*command, "--format", options->format, "tsv or jsonl (default: by the input's extension)")
      ->excludes(records);
  add_format_option(*command, "--out-format", options->out_format,
                    "tsv or jsonl (default: by the extension of --out)");
  add("--batch-size", options->batch_size, "records computed at once (default: as in training)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20));
  add("--allow-bad", options->allowed_bad, "rows that may be malformed: they have no scores")
      ->capture_default_str()
      ->check(not_negative)
      ->excludes(records);
  command->add_flag("--force", options->force, "replace the file at --out");
  add("--set", options->overrides, "override one key: run.device=cpu (repeatable)")->allow_extra_args(false);
  command->callback([options, input, records] {
    if (input->empty() && records->empty()) throw CLI::RequiredError("--input or --records");
    predict_rows(*options);
  });
}

}  // namespace tern::app
