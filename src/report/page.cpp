#include "report/page.h"

#include <algorithm>

#include "io/atomic_file.h"
#include "io/plot.h"
#include "report/tables.h"
#include "tern/error.h"

namespace tern::report {
namespace {

constexpr const char* page_head =
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Results</title>\n<style>\n"
    "body { font-family: Helvetica, Arial, sans-serif; margin: 2em; color: #222; }\n"
    "table { border-collapse: collapse; margin: 1em 0; font-size: 90%; }\n"
    "caption { text-align: left; font-weight: bold; padding: 0.4em 0; }\n"
    "th, td { border-bottom: 1px solid #ddd; padding: 0.25em 0.7em; text-align: left; white-space: nowrap; }\n"
    "div { overflow-x: auto; }\n"
    "</style>\n</head>\n<body>\n<h1>Results</h1>\n";

/// What two charts are drawn of.
struct Drawn {
  const char* title;
  Curve RunRecord::*curve;
};

std::string chart(const Report& report, const std::string& task, const Drawn& drawn) {
  io::Plot plot{task + ": " + drawn.title, "step", drawn.title, false, false, {}};
  for (const Cell& cell : report.cells)
    for (const RunRecord* run : cell.runs)
      if (cell.task == task && !(run->*drawn.curve).empty())
        plot.series.push_back({cell.row_name() + ", seed " + std::to_string(run->seed), run->*drawn.curve});
  return plot.series.empty() ? "" : "<div>\n" + io::svg(plot) + "</div>\n";
}

std::string charts(const Report& report) {
  std::string text;
  std::vector<std::string> tasks;
  for (const Cell& cell : report.cells)
    if (std::find(tasks.begin(), tasks.end(), cell.task) == tasks.end()) tasks.push_back(cell.task);
  for (const std::string& task : tasks)
    text += chart(report, task, {"accuracy on dev", &RunRecord::dev_accuracy}) +
            chart(report, task, {"training loss", &RunRecord::train_loss});
  return text;
}

}  // namespace

std::string html_page(const Report& report) {
  const bool has_scores = !report.cells.empty();
  std::string text = page_head;
  text += has_scores ? "<div>\n" + html(score_table(report)) + "</div>\n" : "<p>No result is here yet.</p>\n";
  text += "<ul>\n";
  for (const std::string& remark : remarks(report)) text += "<li>" + html_text(remark) + "</li>\n";
  text += "</ul>\n";
  if (has_scores)
    text += charts(report) + "<div>\n" + html(detail_table(report)) + html(run_table(report)) + "</div>\n";
  if (!report.gaps.empty()) text += "<div>\n" + html(gap_table(report)) + "</div>\n";
  return text + "</body>\n</html>\n";
}

void write_report(const Report& report, const std::filesystem::path& folder) {
  io::make_directory(folder);
  io::write_file(folder / "report.md", markdown(report));
  io::write_file(folder / "report.csv", csv(detail_table(report)));
  io::write_file(folder / "runs.csv", csv(run_table(report)));
  io::write_file(folder / "report.tex", latex(report));
  io::write_file(folder / "report.html", html_page(report));
}

std::string with_report(const std::string& page, const std::string& text, const std::string& where) {
  const std::size_t begin = page.find(page_begin), end = page.find(page_end);
  if (begin == page.npos || end == page.npos || end < begin || page.find(page_begin, begin + 1) != page.npos ||
      page.find(page_end, end + 1) != page.npos)
    throw_error(ExitCode::bad_data, "{}: must hold one line <!-- report --> and below it one line {}", where,
                page_end);
  return page.substr(0, begin + page_begin.size()) + text + page.substr(end);
}

}  // namespace tern::report
