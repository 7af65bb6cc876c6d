#include "report/tables.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <set>

#include "tern/error.h"

namespace tern::report {
namespace {

using Row = std::vector<std::string>;

constexpr const char* nothing = "-";

std::string fixed(double value, int digits) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return text.data();
}

std::string deviation_text(const SeedStatistics& statistics) {
  return statistics.deviation ? percent(*statistics.deviation) : nothing;
}

std::string score_text(const Cell& cell) {
  const std::string mark = origin_remark(cell.origin).empty() ? "" : " " + origin_name(cell.origin),
                    spread = cell.test.deviation ? " ± " + deviation_text(cell.test) : "";
  return percent(cell.test.mean) + spread + " (" + std::to_string(cell.test.count) + ")" + mark;
}

template <class T, class Key>
std::vector<std::string> distinct(const std::vector<T>& items, const Key& key) {
  std::vector<std::string> names;
  for (const T& item : items)
    if (const std::string name = key(item); std::find(names.begin(), names.end(), name) == names.end())
      names.push_back(name);
  return names;
}

/// The cell of a row and a column, or null.
const Cell* cell_at(const Report& report, const std::string& row, const std::string& task) {
  const auto found = std::find_if(report.cells.begin(), report.cells.end(), [&](const Cell& cell) {
    return cell.row_name() == row && cell.task == task;
  });
  return found == report.cells.end() ? nullptr : &*found;
}

/// Mean over the averaged tasks, if all are there.
template <class Percent>
std::string average_text(const Percent& percent_of) {
  double sum = 0;
  for (const std::string& task : averaged_tasks()) {
    const std::optional<double> value = percent_of(task);
    if (!value) return nothing;
    sum += *value;
  }
  return fixed(sum / static_cast<double>(averaged_tasks().size()), 2);
}

/// Whether the published average can be formed.
bool has_average(const std::vector<std::string>& tasks) {
  return std::all_of(averaged_tasks().begin(), averaged_tasks().end(), [&](const std::string& task) {
    return std::find(tasks.begin(), tasks.end(), task) != tasks.end();
  });
}

Row own_row(const Report& report, const std::string& name, const std::vector<std::string>& tasks) {
  Row row{name};
  for (const std::string& task : tasks) {
    const Cell* cell = cell_at(report, name, task);
    row.push_back(cell == nullptr ? nothing : score_text(*cell));
  }
  std::set<std::string> marks;
  const auto percent_of = [&](const std::string& task) -> std::optional<double> {
    const Cell* cell = cell_at(report, name, task);
    if (cell == nullptr) return std::nullopt;
    if (!origin_remark(cell->origin).empty()) marks.insert(" " + origin_name(cell->origin));
    return 100 * cell->test.mean;
  };
  if (!has_average(tasks)) return row;
  row.push_back(average_text(percent_of));
  if (row.back() != nothing)
    for (const std::string& mark : marks) row.back() += mark;
  return row;
}

/// The published scores beside a row, if any of its cells has one.
std::optional<Row> published_row(const Report& report, const std::string& name,
                                 const std::vector<std::string>& tasks) {
  Row row{name + ", published"};
  bool is_known = false, is_verified = true;
  const auto score = [&](const std::string& task) -> std::optional<double> {
    const Cell* cell = cell_at(report, name, task);
    if (cell == nullptr || !cell->published) return std::nullopt;
    is_known = true;
    is_verified &= cell->published->is_verified;
    return cell->published->percent;
  };
  for (const std::string& task : tasks) {
    const std::optional<double> value = score(task);
    row.push_back(value ? fixed(*value, 2) : nothing);
  }
  if (has_average(tasks)) row.push_back(average_text(score));
  if (!is_verified) row.front() += " (not verified)";
  return is_known ? std::optional(row) : std::nullopt;
}

Row majority_row(const Report& report, const std::vector<std::string>& tasks) {
  Row row{"majority class"};
  for (const std::string& task : tasks) {
    std::set<std::string> shares;
    for (const Cell& cell : report.cells)
      if (cell.task == task) shares.insert(percent(cell.majority));
    std::string text;
    for (const std::string& share : shares) text += (text.empty() ? "" : "; ") + share;
    row.push_back(text);
  }
  if (has_average(tasks)) row.push_back(nothing);
  return row;
}

std::string published_source(const Cell& cell) {
  return cell.published ? cell.published->source + (cell.published->is_verified ? "" : " (not verified)")
                        : nothing;
}

Row detail_row(const Cell& cell) {
  const RunRecord& first = *cell.runs.front();
  std::string seeds;
  for (const RunRecord* run : cell.runs) seeds += (seeds.empty() ? "" : " ") + std::to_string(run->seed);
  return {cell.task,
          cell.row_name(),
          origin_name(cell.origin),
          protocol_name(cell.protocol),
          std::to_string(cell.test.count),
          seeds,
          percent(cell.test.mean),
          deviation_text(cell.test),
          cell.drop_last ? percent(cell.drop_last->mean) : nothing,
          cell.drop_last ? deviation_text(*cell.drop_last) : nothing,
          percent(cell.dev.mean),
          deviation_text(cell.dev),
          percent(cell.majority),
          cell.published ? fixed(cell.published->percent, 2) : nothing,
          cell.published ? fixed(100 * cell.test.mean - cell.published->percent, 2) : nothing,
          published_source(cell),
          cell.facts([](const RunRecord& run) { return std::to_string(run.steps); }),
          std::to_string(first.parameters),
          fixed(cell.seconds.mean, 1),
          fixed(cell.evaluation_seconds.mean, 1),
          fixed(static_cast<double>(first.device_bytes) / (1 << 20), 1),
          cell.facts([](const RunRecord& run) { return run.device; }),
          first.config_value("run.precision"),
          cell.facts([](const RunRecord& run) { return run.commit; }),
          first.data_hash(),
          recipe_hash(first)};
}

}  // namespace

std::string percent(double share) { return fixed(100 * share, 2); }

Table score_table(const Report& report) {
  const auto tasks = distinct(report.cells, [](const Cell& cell) { return cell.task; });
  const auto names = distinct(report.cells, [](const Cell& cell) { return cell.row_name(); });
  Table table{"Test accuracy in percent: mean ± standard deviation (number of seeds)", {{"mechanism"}}};
  Row& head = table.rows.front();
  head.insert(head.end(), tasks.begin(), tasks.end());
  if (has_average(tasks)) head.push_back("average");
  for (const std::string& name : names) {
    table.rows.push_back(own_row(report, name, tasks));
    if (const auto row = published_row(report, name, tasks)) table.rows.push_back(*row);
  }
  table.rows.push_back(majority_row(report, tasks));
  return table;
}

Table detail_table(const Report& report) {
  Table table{"What belongs to each number",
              {{"task",
                "mechanism",
                "data",
                "protocol",
                "n",
                "seeds",
                "test %",
                "test deviation",
                "whole batches %",
                "whole batches deviation",
                "dev %",
                "dev deviation",
                "majority %",
                "published %",
                "difference",
                "source",
                "steps",
                "parameters",
                "seconds",
                "of them evaluation",
                "peak MiB",
                "device",
                "precision",
                "commit",
                "data hash",
                "recipe hash"}}};
  for (const Cell& cell : report.cells) table.rows.push_back(detail_row(cell));
  return table;
}

Table run_table(const Report& report) {
  Table table{"Runs", {{"run",         "task",        "mechanism",       "data",        "protocol",
                        "seed",        "test %",      "whole batches %", "dev %",       "majority %",
                        "steps",       "parameters",  "seconds",         "dev seconds", "test seconds",
                        "peak MiB",    "device",      "precision",       "commit",      "data hash",
                        "recipe hash", "fingerprint", "finished"}}};
  for (const Cell& cell : report.cells)
    for (const RunRecord* run : cell.runs)
      table.rows.push_back({run->name,
                            cell.task,
                            cell.row_name(),
                            origin_name(cell.origin),
                            protocol_name(cell.protocol),
                            std::to_string(run->seed),
                            percent(run->test),
                            run->drop_last ? percent(*run->drop_last) : nothing,
                            percent(run->dev),
                            percent(run->majority),
                            std::to_string(run->steps),
                            std::to_string(run->parameters),
                            fixed(run->seconds, 1),
                            fixed(run->dev_seconds, 1),
                            fixed(run->test_seconds, 1),
                            fixed(static_cast<double>(run->device_bytes) / (1 << 20), 1),
                            run->device,
                            run->config_value("run.precision"),
                            run->commit,
                            run->data_hash(),
                            recipe_hash(*run),
                            run->fingerprint,
                            run->finished});
  return table;
}

Table gap_table(const Report& report) {
  Table table{"Runs without an accuracy", {{"run", "state", "last logged step", "best dev %", "reason"}}};
  for (const RunGap& gap : report.gaps)
    table.rows.push_back({gap.name, gap.state, gap.step ? fixed(*gap.step, 0) : nothing,
                          gap.dev_accuracy ? percent(*gap.dev_accuracy) : nothing, gap.reason});
  return table;
}

std::vector<std::string> remarks(const Report& report) {
  std::vector<std::string> out;
  std::set<DataOrigin> origins;
  std::set<std::string> sources;
  for (const Cell& cell : report.cells) {
    if (cell.origin != DataOrigin::own) origins.insert(cell.origin);
    if (cell.published) sources.insert(published_source(cell));
  }
  for (const DataOrigin origin : origins)
    if (const std::string remark = origin_remark(origin); !remark.empty()) out.push_back(remark + ".");
  if (sources.empty() && !origins.empty())
    out.push_back(
        "No run follows a published protocol on the benchmark's data: no published value is beside them.");
  for (const std::string& source : sources) out.push_back("Published values: " + source + ".");
  out.insert(out.end(), report.notes.begin(), report.notes.end());
  if (!report.gaps.empty())
    out.push_back(format_text("Runs without an accuracy to show, listed below: {}.", report.gaps.size()));
  if (report.not_begun > 0)
    out.push_back(format_text("Planned runs that have not begun: {}.", report.not_begun));
  return out;
}

std::string markdown(const Report& report) {
  const bool has_scores = !report.cells.empty();
  std::string text = has_scores ? markdown(score_table(report)) + "\n" : "";
  for (const std::string& remark : remarks(report)) text += "- " + remark + "\n";
  if (text.empty()) return "No run is here yet.\n";
  if (has_scores) text += "\n" + markdown(detail_table(report));
  if (!report.gaps.empty()) text += "\n" + markdown(gap_table(report));
  return text;
}

std::string latex(const Report& report) {
  if (report.cells.empty()) return "% no run is here yet\n";
  std::string text = latex(score_table(report));
  for (const std::string& remark : remarks(report)) text += "% " + remark + "\n";
  return text;
}

}  // namespace tern::report
