// tern data prepare|verify|info
#include <algorithm>
#include <chrono>
#include <optional>

#include "app/commands.h"
#include "app/experiment_options.h"
#include "app/output.h"
#include "data/record_file.h"
#include "io/json.h"
#include "tasks/listops_generator.h"
#include "tern/logging.h"

namespace tern::app {
namespace {

namespace fs = std::filesystem;

constexpr std::array splits{"train", "dev", "test"};

struct PrepareOptions {
  tasks::ListopsOptions listops;
  fs::path out = "data/prepared/listops";
  bool force = false;
};

fs::path split_file(const fs::path& folder, const char* split) {
  return folder / (std::string(split) + ".records");
}

bool has_same_options(const data::RecordHeader& header, const tasks::ListopsOptions& wanted) {
  return header.task == "listops" && header.seed == wanted.seed &&
         header.options == tasks::listops_options_text(wanted);
}

/// Whether all three splits stand in the folder, made with these options and undamaged. Other data there are an
/// error.
bool is_prepared(const PrepareOptions& options) {
  bool is_complete = true;
  for (const char* split : splits) {
    const fs::path path = split_file(options.out, split);
    if (!fs::exists(path)) {
      is_complete = false;
      continue;
    }
    const data::RecordFile file(path);
    if (!has_same_options(file.header(), options.listops))
      throw_error(ExitCode::cannot_create,
                  "{}: holds {} data made with seed {} and options {}; choose another --out, or --force to "
                  "replace them",
                  path, file.header().task, file.header().seed, file.header().options);
    try {
      file.verify();
    } catch (const Error& error) {
      logging::warning("data", "{}", error.what());
      is_complete = false;
    }
  }
  return is_complete;
}

Row statistics_row(const char* split, const tasks::ListopsStatistics& x) {
  Row row{split,
          thousands_text(x.records),
          std::to_string(x.shortest),
          fixed_text(x.mean_length, 1),
          std::to_string(x.longest),
          percent_text(x.majority_share)};
  for (const std::int64_t count : x.labels) row.push_back(std::to_string(count));
  return row;
}

void print_summary(const tasks::ListopsSummary& summary) {
  Row head{"split", "records", "shortest", "mean", "longest", "majority"};
  for (int label = 0; label < tasks::listops_classes; ++label) head.push_back("label " + std::to_string(label));
  print(table_text({head, statistics_row("train", summary.train), statistics_row("dev", summary.dev),
                    statistics_row("test", summary.test), statistics_row("all", summary.all)}));
}

void prepare_listops(const PrepareOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  if (!options.force && is_prepared(options)) {
    print(format_text("{}: the same data are there already, verified; nothing to do\n", options.out));
    return;
  }
  const tasks::ListopsSummary summary = tasks::prepare_listops(options.listops, options.out);
  print_summary(summary);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  print(format_text("{}: {} records from {} candidates in {} s\n", options.out, summary.all.records,
                    summary.candidates, fixed_text(seconds.count(), 1)));
}

/// Record files among the paths; folders stand for the record files in them.
std::vector<fs::path> record_files(const std::vector<std::string>& paths) {
  std::vector<fs::path> files;
  for (const fs::path path : paths) {
    if (!fs::is_directory(path)) {
      files.push_back(path);
      continue;
    }
    const std::size_t before = files.size();
    for (const auto& entry : fs::directory_iterator(path))
      if (entry.path().extension() == ".records") files.push_back(entry.path());
    if (files.size() == before)
      throw_error(ExitCode::missing_input, "{}: holds no .records file; make some with: tern data prepare",
                  path);
    std::sort(files.begin() + static_cast<std::ptrdiff_t>(before), files.end());
  }
  return files;
}

void verify_data(const std::vector<std::string>& paths) {
  std::optional<Error> last;
  std::size_t damaged = 0;
  const std::vector<fs::path> files = record_files(paths);
  for (const fs::path& path : files) {
    try {
      const data::RecordFile file(path);
      file.verify();
      print(format_text("ok       {}: {} records\n", path, file.count()));
    } catch (const Error& error) {
      print(format_text("{}{}\n", error.code() == ExitCode::bad_data ? "damaged  " : "missing  ", path));
      logging::write(logging::Level::error, "data", error.what());
      last = error;
      ++damaged;
    }
  }
  if (last) throw_error(last->code(), "{} of {} files cannot be used", damaged, files.size());
}

io::Json info_json(const data::RecordFile& file) {
  const data::RecordHeader& header = file.header();
  io::Json labels = io::Json::array();
  if (header.label_kind == data::LabelKind::classes) {
    std::vector<std::int64_t> counts(static_cast<std::size_t>(header.classes));
    for (std::int64_t r = 0; r < file.count(); ++r) ++counts[static_cast<std::size_t>(file.label(r))];
    labels = counts;
  }
  const auto sequences = static_cast<double>(file.count() * header.sequences_per_record);
  return {{"path", file.path().string()},
          {"task", header.task},
          {"split", header.split},
          {"seed", header.seed},
          {"options", io::parse_json(header.options, file.path().string())},
          {"records", header.records},
          {"sequences_per_record", header.sequences_per_record},
          {"tokens", header.tokens},
          {"token_type", std::string(name(header.token_type))},
          {"vocabulary", header.vocabulary},
          {"classes", header.classes},
          {"padded_length", header.padded_length},
          {"mean_length", sequences > 0 ? static_cast<double>(header.tokens) / sequences : 0},
          {"longest", header.longest},
          {"label_counts", labels}};
}

void show_info(const std::vector<std::string>& paths, bool as_json) {
  io::Json all = io::Json::array();
  for (const fs::path& path : record_files(paths)) all.push_back(info_json(data::RecordFile(path)));
  if (as_json) return print_json(all);
  for (const io::Json& info : all) {
    std::vector<Row> rows;
    for (const auto& [key, value] : info.items())
      rows.push_back({key, value.is_string() ? value.get<std::string>() : io::dump_json(value)});
    print((&info == &all.front() ? "" : "\n") + table_text(rows));
  }
}

void add_prepare(CLI::App& data) {
  CLI::App* prepare = data.add_subcommand("prepare", "make the record files of a task");
  prepare->require_subcommand(1);
  CLI::App* listops =
      prepare->add_subcommand("listops", "nested list operations, generated (Long Range Arena)");
  listops->footer(
      "Examples: tern data prepare listops\n          tern data prepare listops --out data/prepared/short "
      "--min-length 8 --max-length 64 --train 10000");
  auto options = std::make_shared<PrepareOptions>();
  const auto add = [&](const char* flag, auto& value, const char* meaning) {
    return listops->add_option(flag, value, meaning)->capture_default_str();
  };
  add("--out", options->out, "folder for train.records, dev.records and test.records")
      ->check([](const std::string& text) { return text.empty() ? "must name a folder" : std::string(); });
  add("--seed", options->listops.seed, "seed of the generator")->check(check_seed);
  add("--train", options->listops.train, "training records")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{100'000'000}));
  add("--dev", options->listops.dev, "development records");
  add("--test", options->listops.test, "test records");
  add("--min-length", options->listops.min_length, "fewest tokens of a record");
  add("--max-length", options->listops.max_length, "most tokens of a record");
  add("--depth", options->listops.depth, "deepest nesting");
  add("--arguments", options->listops.arguments, "most arguments of one operator");
  listops->add_flag("--force", options->force, "replace other data in the folder");
  listops->callback([options] { prepare_listops(*options); });
}

}  // namespace

void add_data_command(CLI::App& app) {
  CLI::App* data = app.add_subcommand("data", "make, check and describe prepared data");
  data->footer("Examples: tern data prepare listops\n          tern data verify data/prepared/listops");
  data->require_subcommand(1);
  add_prepare(*data);
  auto paths = std::make_shared<std::vector<std::string>>();
  auto as_json = std::make_shared<bool>(false);
  CLI::App* verify =
      data->add_subcommand("verify", "check every byte of record files; exit 65 if one is damaged");
  verify->footer("Example: tern data verify data/prepared/listops");
  verify->add_option("paths", *paths, "record files, or folders of them")->required();
  verify->callback([paths] { verify_data(*paths); });
  CLI::App* info = data->add_subcommand("info", "what record files hold");
  info->footer("Example: tern data info data/prepared/listops --json");
  info->add_option("paths", *paths, "record files, or folders of them")->required();
  info->add_flag("--json", *as_json, "print JSON");
  info->callback([paths, as_json] { show_info(*paths, *as_json); });
}

}  // namespace tern::app
