// tern data prepare|verify|info
#include <algorithm>
#include <optional>

#include "app/commands.h"
#include "app/output.h"
#include "app/prepare.h"
#include "data/record_file.h"
#include "io/json.h"
#include "tern/logging.h"

namespace tern::app {
namespace {

namespace fs = std::filesystem;

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
  prepare->footer("Examples: tern data prepare listops\n          tern data prepare listops --help");
  prepare->require_subcommand(1);
  add_prepare_listops(*prepare);
  add_prepare_text(*prepare);
  add_prepare_retrieval(*prepare);
  add_prepare_image(*prepare);
  add_prepare_pathfinder(*prepare);
  add_prepare_tables(*prepare);
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
