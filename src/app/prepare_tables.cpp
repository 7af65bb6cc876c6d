// tern data prepare classification|pair|regression
#include "app/experiment_options.h"
#include "app/output.h"
#include "app/prepare.h"
#include "app/table_options.h"
#include "tasks/table_data.h"

namespace tern::app {
namespace {

struct TableOptions {
  tasks::TableDataOptions table;
  tasks::PreparationOptions output;
  std::string text = "text", second;
};

void prepare_table(const TableOptions& options) {
  tasks::TableDataOptions table = options.table;
  table.texts = {options.text};
  if (!options.second.empty()) table.texts.push_back(options.second);
  tasks::TableData data(table);
  prepare_data(options.output, data.header(), data.sources(), [&](tasks::Preparation& preparation) {
    data.write(preparation);
    const auto names = io::parse_json(data.header().options, "options").value("class_names", io::Json::array());
    for (std::size_t label = 0; label < names.size() && label < 16; ++label)
      print(format_text("label {}: {}\n", label, names[label].get<std::string>()));
    return format_text("tables ({} texts cut to {} bytes, {} empty)", data.cut(), data.header().padded_length,
                       data.empty());
  });
}

/// What all three take.
void add_options(CLI::App& command, const std::shared_ptr<TableOptions>& options) {
  tasks::TableDataOptions& table = options->table;
  const auto add = [&](const char* flag, auto& value, const char* meaning) {
    return command.add_option(flag, value, meaning)->capture_default_str();
  };
  add("--train", table.train, "training table: TSV or JSON Lines (.jsonl), plain or compressed")->required();
  add("--dev", table.dev, "development table (default: records held out of --train)");
  add("--test", table.test, "test table (default: records held out of --train)");
  add_output_options(command, options->output);
  add_bad_option(command, options->output);
  add("--text", options->text, "column of the text: its name in the header or key, or its number from 1");
  add("--label", table.label, "column of the label, likewise");
  command.add_flag("--header", table.has_header,
                   "skip the first line of a TSV; implied where a column is given by name");
  add_format_option(command, "--format", table.format, "tsv or jsonl (default: by each file's extension)");
  add("--max-length", table.max_length, "bytes kept of a text");
  add("--held-out", table.held_out, "share of --train for each split without a table");
  add("--seed", table.seed, "seed that chooses the records held out")->check(check_seed);
}

void add_task(CLI::App& prepare, const std::string& task, const std::string& summary,
              const std::string& example) {
  CLI::App* command = prepare.add_subcommand(task, summary);
  command->footer("Example: tern data prepare " + task + " " + example);
  auto options = std::make_shared<TableOptions>();
  options->table.task = task;
  options->output.folder = "data/prepared/" + task;
  add_options(*command, options);
  const char* second_meaning = "column of the second text";
  if (task == "pair") options->second = "second";
  if (task != "classification")
    command->add_option("--second", options->second, second_meaning)->capture_default_str();
  if (task != "regression")
    command
        ->add_option("--classes", options->table.classes,
                     "names of the classes in order, separated by commas (default: those of --train, sorted)")
        ->delimiter(',')
        ->allow_extra_args(false);
  command->callback([options] { prepare_table(*options); });
}

}  // namespace

void add_prepare_tables(CLI::App& prepare) {
  add_task(prepare, "classification", "your own labelled texts",
           "--train train.tsv --label stars --text review");
  add_task(prepare, "pair", "your own labelled pairs of texts",
           "--train train.jsonl --dev dev.jsonl --test test.jsonl --text question --second answer");
  add_task(prepare, "regression", "your own texts, or pairs of them, with a number each",
           "--train train.tsv --label 3 --text 1");
}

}  // namespace tern::app
