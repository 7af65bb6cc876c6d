// tern config show|check|diff|reference|keys
#include "app/commands.h"
#include "app/experiment_options.h"
#include "app/output.h"
#include "tern/logging.h"

namespace tern::app {
namespace {

void show(const ExperimentOptions& options, bool with_origin) {
  ExperimentConfig config;
  const config::Origins origins = load_experiment(config, options);
  print(with_origin ? config::dump_with_origin(config, origins) : config::dump(config));
}

/// What is sound, in words; throws Error for mistakes.
std::string checked(const std::string& file, const std::vector<std::string>& overrides) {
  if (is_sweep_file(file))
    return format_text("{}: {} runs", file, planned_runs({file, "", overrides, {}}).size());
  ExperimentConfig config;
  config::load(config, file, overrides);
  return file;
}

void check(const std::vector<std::string>& files, const std::vector<std::string>& overrides) {
  std::optional<Error> last;
  std::size_t bad = 0;
  for (const std::string& file : files) {
    try {
      print("ok   " + checked(file, overrides) + "\n");
    } catch (const Error& error) {
      print(format_text("bad  {}\n", file));
      logging::write(logging::Level::error, "config", error.what());
      last = error;
      ++bad;
    }
  }
  if (last) throw_error(last->code(), "{} of {} configurations cannot be used", bad, files.size());
}

void diff(const std::string& before, const std::string& after) {
  ExperimentConfig first, second;
  load_experiment(first, {before, {}});
  load_experiment(second, {after, {}});
  const std::vector<config::Difference> differences = config::diff(first, second);
  if (differences.empty()) return print("no difference\n");
  std::vector<Row> rows{{"key", before, after, "may differ on resume"}};
  for (const config::Difference& difference : differences)
    rows.push_back({difference.key, difference.before.value_or("(absent)"),
                    difference.after.value_or("(absent)"), difference.changeable ? "yes" : "no"});
  print(table_text(rows));
}

void print_reference() {
  print("<!-- Written by `tern config reference`; do not edit. -->\n\n" +
        config::reference_markdown(ExperimentConfig(), "Configuration"));
}

void print_keys() {
  for (const std::string& key : config::keys(ExperimentConfig())) print(key + "\n");
}

}  // namespace

void add_config_command(CLI::App& app) {
  CLI::App* config = app.add_subcommand("config", "show, check and compare configurations");
  config->footer(
      "Examples: tern config show configs/quickstart.yaml --origin\n          tern config check "
      "configs/*.yaml");
  config->require_subcommand(1);

  CLI::App* show_command = config->add_subcommand("show", "the resolved configuration");
  show_command->footer(
      "Example: tern config show configs/lra/listops.yaml --set model.attention.kind=yoso --origin");
  auto shown = std::make_shared<ExperimentOptions>();
  auto with_origin = std::make_shared<bool>(false);
  add_experiment_options(*show_command, *shown);
  show_command->add_flag("--origin", *with_origin, "name the file and line of each value");
  show_command->callback([=] { show(*shown, *with_origin); });

  CLI::App* check_command =
      config->add_subcommand("check", "report all mistakes of all files; exit 78 if there are any");
  check_command->footer("Example: tern config check configs/quickstart.yaml configs/sweeps/lra.yaml");
  auto files = std::make_shared<std::vector<std::string>>(),
       overrides = std::make_shared<std::vector<std::string>>();
  check_command->add_option("files", *files, "experiment and sweep files (YAML)")->required();
  check_command->add_option("--set", *overrides, "override one key in each (repeatable)")
      ->allow_extra_args(false);
  check_command->callback([=] { check(*files, *overrides); });

  CLI::App* diff_command = config->add_subcommand("diff", "keys in which two configurations differ");
  diff_command->footer("Example: tern config diff configs/quickstart.yaml configs/lra/listops.yaml");
  auto before = std::make_shared<std::string>(), after = std::make_shared<std::string>();
  diff_command->add_option("before", *before, "experiment file")->required();
  diff_command->add_option("after", *after, "experiment file")->required();
  diff_command->callback([=] { diff(*before, *after); });

  CLI::App* reference =
      config->add_subcommand("reference", "every key with type, default, range and meaning, as Markdown");
  reference->footer("Example: tern config reference");
  reference->callback(print_reference);
  CLI::App* keys = config->add_subcommand("keys", "every key that a file may set, one a line");
  keys->footer("Example: tern config keys");
  keys->callback(print_keys);
}

}  // namespace tern::app
