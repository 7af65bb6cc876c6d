#include "app/prepare.h"

#include "app/commands.h"
#include "app/output.h"
#include "base/clock.h"
#include "tern/error.h"

namespace tern::app {
namespace {

constexpr std::size_t most_label_columns = 16;

Row statistics_row(std::string_view split, const tasks::SplitStatistics& x) {
  Row row{std::string(split), thousands_text(x.records), thousands_text(x.shortest),
          fixed_text(x.mean_length, 1), thousands_text(x.longest)};
  if (!x.labels.empty()) row.push_back(percent_text(x.majority_share));
  if (x.labels.size() <= most_label_columns)
    for (const std::int64_t count : x.labels) row.push_back(thousands_text(count));
  return row;
}

std::string summary_text(const tasks::Preparation& preparation) {
  std::vector<std::filesystem::path> files;
  for (const std::string_view split : tasks::split_names)
    files.push_back(tasks::split_file(preparation.folder(), split));
  const tasks::SplitStatistics all = tasks::statistics_of(files);
  Row head{"split", "records", "shortest", "mean", "longest"};
  if (!all.labels.empty()) head.push_back("majority");
  if (all.labels.size() <= most_label_columns)
    for (std::size_t label = 0; label < all.labels.size(); ++label)
      head.push_back("label " + std::to_string(label));
  std::vector<Row> rows{head};
  for (std::size_t i = 0; i < files.size(); ++i)
    rows.push_back(statistics_row(tasks::split_names[i], tasks::statistics_of({files[i]})));
  rows.push_back(statistics_row("all", all));
  return table_text(rows);
}

}  // namespace

void add_output_options(CLI::App& command, tasks::PreparationOptions& options) {
  command.add_option("--out", options.folder, "folder for train.records, dev.records and test.records")
      ->capture_default_str()
      ->check([](const std::string& text) { return text.empty() ? "must name a folder" : std::string(); });
  command.add_flag("--force", options.force, "replace other data in the folder");
}

CLI::Option* add_source_option(CLI::App& command, std::vector<std::filesystem::path>& paths,
                               const std::string& meaning) {
  return command.add_option("--from", paths, meaning + "; plain or compressed, several where they lie apart");
}

CLI::Option* add_bad_option(CLI::App& command, tasks::PreparationOptions& options) {
  return command
      .add_option("--allow-bad", options.allowed_bad,
                  "damaged items that may be left out; they are named on stderr and in manifest.json")
      ->capture_default_str()
      ->check(not_negative);
}

void prepare_data(const tasks::PreparationOptions& options, const data::RecordHeader& header,
                  const std::vector<io::SourceFingerprint>& sources,
                  const std::function<std::string(tasks::Preparation&)>& make) {
  const Clock::time_point start = Clock::now();
  tasks::Preparation preparation(options, header, sources);
  if (preparation.is_complete()) {
    print(format_text("{}: the same data are there already, verified; nothing to do\n", options.folder));
    return;
  }
  const std::string made_from = make(preparation);
  print(summary_text(preparation));
  const std::string note = tasks::data_note(header);
  if (!note.empty()) print("note: " + note + "\n");
  std::int64_t records = 0;
  for (const std::string_view split : tasks::split_names)
    records += data::RecordFile(tasks::split_file(options.folder, split)).count();
  print(format_text("{}: {} records from {} in {} s\n", options.folder, records, made_from,
                    fixed_text(seconds_since(start), 1)));
  if (!preparation.skipped().empty())
    print(format_text("{} damaged items were left out; {} names them\n", preparation.skipped().size(),
                      options.folder / "manifest.json"));
}

}  // namespace tern::app
