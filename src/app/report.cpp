// tern report PATH...
#include "app/commands.h"
#include "app/output.h"
#include "io/atomic_file.h"
#include "report/page.h"
#include "report/tables.h"
#include "tern/logging.h"

namespace tern::app {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t page_cap = 4 << 20;

struct ReportOptions {
  std::vector<fs::path> paths;
  std::string format = "markdown";
  fs::path out, page, ledger;
  bool check = false;
};

std::string text_of(const report::Report& report, const std::string& format) {
  if (format == "csv") return report::csv(report::detail_table(report));
  if (format == "runs") return report::csv(report::run_table(report));
  if (format == "latex") return report::latex(report);
  if (format == "html") return report::html_page(report);
  return report::markdown(report);
}

void keep_page(const report::Report& report, const ReportOptions& options) {
  const std::string page = io::read_file(options.page, page_cap),
                    fresh = report::with_report(page, report::markdown(report), options.page.string());
  if (fresh == page) return print(format_text("{}: up to date\n", options.page));
  if (options.check)
    throw_error(ExitCode::failed, "{}: its table is not what the results say; run the command without --check",
                options.page);
  io::write_file(options.page, fresh);
  print(format_text("{}: table written\n", options.page));
}

void write(const ReportOptions& options) {
  const report::Findings found = report::find_runs(options.paths);
  const bool is_empty = found.runs.empty() && found.gaps.empty() && found.not_begun.empty();
  if (is_empty && options.page.empty())
    throw_error(ExitCode::missing_input,
                "{}: no run is there; name run folders, the folder of a sweep or a ledger",
                options.paths.front());
  if (!options.ledger.empty()) {
    const int added = report::add_to_ledger(options.ledger, found.runs);
    return print(format_text("{}: {} results, {} of them new\n", options.ledger, found.runs.size(), added));
  }
  const report::Report report = report::gather(found);
  if (!options.page.empty()) return keep_page(report, options);
  if (options.out.empty()) return print(text_of(report, options.format));
  report::write_report(report, options.out);
  print(format_text("{}: report.md, report.csv, runs.csv, report.tex and report.html written\n", options.out));
}

}  // namespace

void add_report_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("report", "tables and curves of finished runs");
  auto options = std::make_shared<ReportOptions>();
  command->footer(
      "Examples: tern report runs/lra\n"
      "          tern report runs/lra --out runs/lra/report\n"
      "          tern report runs/lra --collect docs/results/lra\n"
      "          tern report docs/results/lra --page docs/reproducing.md --check");
  command
      ->add_option(
          "paths", options->paths,
          "run folders, folders of sweeps, ledgers (folders of collected results), or folders of these")
      ->required();
  CLI::Option* format =
      command
          ->add_option(
              "--format", options->format,
              "what stdout gets: markdown, csv (a row for each cell), runs (CSV, a row for each run), latex "
              "or html")
          ->check(CLI::IsMember({"markdown", "csv", "runs", "latex", "html"}))
          ->capture_default_str();
  CLI::Option* out = command->add_option("--out", options->out, "write all formats into this folder instead")
                         ->excludes(format);
  CLI::Option* ledger =
      command->add_option("--collect", options->ledger, "copy the results into this ledger instead");
  CLI::Option* page = command->add_option(
      "--page", options->page,
      "put the Markdown between the lines <!-- report --> and <!-- end report --> of this file instead");
  ledger->excludes(format)->excludes(out)->excludes(page);
  page->excludes(format)->excludes(out);
  command->add_flag("--check", options->check, "change nothing; exit 1 if the page is not up to date")
      ->needs(page);
  command->callback([options] { write(*options); });
}

}  // namespace tern::app
