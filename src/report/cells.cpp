#include "report/cells.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "tern/error.h"

namespace tern::report {
namespace {

/// In the name of a row, and in a note.
constexpr std::size_t keys_shown = 4, keys_listed = 10;

/// Benchmark tasks in the order of published tables, then the others.
std::size_t task_rank(const std::string& task) {
  const std::vector<std::string>& known = averaged_tasks();
  return static_cast<std::size_t>(std::find(known.begin(), known.end(), task) - known.begin());
}

std::size_t mechanism_rank(const std::string& mechanism) {
  static const std::vector<std::string> order{
      "None",       "Softmax",   "YOSO-E",   "YOSO-32",   "YOSO-C-16",         "Nystromformer",
      "Longformer", "Linformer", "Reformer", "Performer", "Linear Transformer"};
  return static_cast<std::size_t>(std::find(order.begin(), order.end(), mechanism) - order.begin());
}

std::string identity_of(const RunRecord& run) {
  return task_name(run) + "\n" + mechanism_name(run) + "\n" + recipe_hash(run) + "\n" + run.data_hash();
}

template <class Value>
SeedStatistics statistics_over(const std::vector<const RunRecord*>& runs, const Value& value) {
  std::vector<double> values;
  for (const RunRecord* run : runs) values.push_back(std::invoke(value, *run));
  return statistics_of(values);
}

/// One run for each seed: the last that finished.
std::vector<const RunRecord*> one_for_each_seed(std::vector<const RunRecord*> runs, const std::string& where,
                                                std::vector<std::string>& notes) {
  std::sort(runs.begin(), runs.end(), [](const RunRecord* a, const RunRecord* b) {
    return std::tie(a->seed, b->finished, a->name) < std::tie(b->seed, a->finished, b->name);
  });
  std::vector<const RunRecord*> kept;
  for (const RunRecord* run : runs) {
    if (kept.empty() || kept.back()->seed != run->seed)
      kept.push_back(run);
    else if (kept.back()->fingerprint != run->fingerprint)
      notes.push_back(format_text("{}: seed {} has several results; {} of {} counts, {} of {} does not.", where,
                                  run->seed, kept.back()->name, kept.back()->finished, run->name,
                                  run->finished));
  }
  return kept;
}

Cell cell_of(const std::vector<const RunRecord*>& runs, std::vector<std::string>& notes) {
  Cell cell;
  const RunRecord& first = *runs.front();
  cell.task = task_name(first);
  cell.mechanism = mechanism_name(first);
  cell.runs = one_for_each_seed(runs, cell.mechanism + " on " + cell.task, notes);
  cell.test = statistics_over(cell.runs, &RunRecord::test);
  if (first.drop_last)
    cell.drop_last = statistics_over(cell.runs, [](const RunRecord& run) { return run.drop_last.value_or(0); });
  cell.dev = statistics_over(cell.runs, &RunRecord::dev);
  cell.seconds = statistics_over(cell.runs, &RunRecord::seconds);
  cell.evaluation_seconds =
      statistics_over(cell.runs, [](const RunRecord& run) { return run.dev_seconds + run.test_seconds; });
  cell.majority = first.majority;
  cell.protocol = protocol_of(first);
  cell.origin = data_origin(first);
  if (cell.origin == DataOrigin::published || cell.origin == DataOrigin::generated)
    cell.published = published_score(cell.protocol, cell.mechanism, cell.task);
  return cell;
}

/// Where another kind is chosen, its own keys differ as a matter of course.
void drop_what_kinds_imply(std::set<std::string>& keys) {
  const std::set<std::string> all = keys;
  for (const std::string& key : all) {
    if (!key.ends_with(".kind")) continue;
    const std::string section = key.substr(0, key.size() - 4);
    std::erase_if(keys, [&](const std::string& other) { return other != key && other.starts_with(section); });
  }
}

/// Keys whose values are not the same in all cells.
std::set<std::string> differing_keys(const std::vector<Cell*>& cells) {
  std::set<std::string> keys;
  const auto first = recipe_of(*cells.front()->runs.front());
  for (const Cell* cell : cells) {
    const auto recipe = recipe_of(*cell->runs.front());
    for (const auto& [key, value] : recipe) {
      const auto other = first.find(key);
      if (other == first.end() || other->second != value) keys.insert(key);
    }
    for (const auto& [key, value] : first)
      if (!recipe.contains(key)) keys.insert(key);
  }
  drop_what_kinds_imply(keys);
  return keys;
}

std::string variation_of(const Cell& cell, const std::set<std::string>& keys, bool differs_in_data) {
  std::string text;
  std::size_t shown = 0;
  const RunRecord& run = *cell.runs.front();
  const auto recipe = recipe_of(run);
  for (const std::string& key : keys) {
    const auto value = recipe.find(key);
    if (value == recipe.end() || ++shown > keys_shown) continue;
    text += (text.empty() ? "" : ", ") + key + "=" + value->second;
  }
  if (shown > keys_shown) text += ", recipe " + recipe_hash(run);
  if (differs_in_data) text += (text.empty() ? "" : ", ") + ("data " + run.data_hash());
  return text;
}

std::string listed(const std::set<std::string>& keys) {
  std::string text;
  std::size_t shown = 0;
  for (const std::string& key : keys)
    if (++shown <= keys_listed) text += (text.empty() ? "" : ", ") + key;
  return shown > keys_listed ? text + format_text(" and {} more keys", shown - keys_listed) : text;
}

std::string size_of(const Cell& cell) {
  const RunRecord& run = *cell.runs.front();
  return run.config_value("model.layers") + " x " + run.config_value("model.width");
}

/// Where a mechanism has models of several sizes, cells outside of protocols, which set it, say theirs: layers
/// x width.
void name_sizes(std::vector<Cell>& cells) {
  std::map<std::string, std::set<std::string>> sizes;
  for (const Cell& cell : cells) sizes[cell.mechanism].insert(size_of(cell));
  for (Cell& cell : cells)
    if (cell.protocol == Protocol::none && sizes[cell.mechanism].size() > 1) cell.variation = size_of(cell);
}

/// Names what else sets cells of one task and mechanism apart. What a protocol or a size says is not repeated.
void tell_apart(const std::vector<Cell*>& cells, std::vector<std::string>& notes) {
  if (cells.size() < 2) return;
  std::set<std::string> data;
  for (const Cell* cell : cells) data.insert(cell->runs.front()->data_hash());
  const std::set<std::string> keys = differing_keys(cells);
  std::vector<std::string> further;
  for (const Cell* cell : cells) {
    std::vector<Cell*> alike = cells;
    std::erase_if(alike, [&](const Cell* other) {
      return other->protocol != cell->protocol || other->variation != cell->variation;
    });
    const bool has_name = cell->protocol != Protocol::none || !cell->variation.empty();
    further.push_back(variation_of(*cell, has_name ? differing_keys(alike) : keys, data.size() > 1));
  }
  for (std::size_t i = 0; i < cells.size(); ++i) {
    std::string& variation = cells[i]->variation;
    variation += (variation.empty() || further[i].empty() ? "" : ", ") + further[i];
  }
  const std::string with_data = data.size() < 2 ? "" : keys.empty() ? "the data" : " and the data";
  notes.push_back(format_text("{} on {}: {} experiments that differ in {}{}; they are not averaged.",
                              cells.front()->mechanism, cells.front()->task, cells.size(), listed(keys),
                              with_data));
}

/// A row must not mix protocols: where it would, each of its cells says its own.
void name_protocols(std::vector<Cell>& cells) {
  std::map<std::string, std::set<Protocol>> protocols;
  for (const Cell& cell : cells) protocols[cell.row_name()].insert(cell.protocol);
  for (Cell& cell : cells)
    if (protocols[cell.row_name()].size() > 1)
      cell.variation = protocol_name(cell.protocol) + (cell.variation.empty() ? "" : "; " + cell.variation);
}

void note_mixtures(const std::vector<Cell>& cells, std::vector<std::string>& notes) {
  for (const Cell& cell : cells) {
    const std::string where = cell.row_name() + " on " + cell.task;
    const std::string commits = cell.facts([](const RunRecord& run) { return run.commit; });
    if (commits.find(';') != commits.npos)
      notes.push_back(format_text("{}: its runs come from several commits: {}.", where, commits));
    const std::string devices = cell.facts([](const RunRecord& run) { return run.device; });
    if (devices.find(';') != devices.npos)
      notes.push_back(format_text("{}: its runs come from several devices: {}.", where, devices));
  }
}

}  // namespace

SeedStatistics statistics_of(std::span<const double> values) {
  SeedStatistics out;
  out.count = static_cast<std::int64_t>(values.size());
  if (values.empty()) return out;
  const auto count = static_cast<double>(values.size());
  for (const double value : values) out.mean += value / count;
  if (values.size() < 2) return out;
  double squares = 0;
  for (const double value : values) squares += (value - out.mean) * (value - out.mean);
  out.deviation = std::sqrt(squares / (count - 1));
  return out;
}

std::string Cell::row_name() const {
  return variation.empty() ? mechanism : mechanism + " (" + variation + ")";
}

std::string Cell::facts(const std::function<std::string(const RunRecord&)>& fact) const {
  std::vector<std::string> known;
  for (const RunRecord* run : runs)
    if (const std::string text = fact(*run); std::find(known.begin(), known.end(), text) == known.end())
      known.push_back(text);
  std::string joined;
  for (const std::string& text : known) joined += (joined.empty() ? "" : "; ") + text;
  return joined;
}

Report gather(const Findings& found) {
  Report report;
  report.gaps = found.gaps;
  report.not_begun = found.not_begun.size();
  std::map<std::string, std::vector<const RunRecord*>> groups;
  for (const RunRecord& run : found.runs) {
    if (predicts_labels(run))
      groups[identity_of(run)].push_back(&run);
    else
      report.gaps.push_back({run.name, "finished", "does not predict labels: no accuracy"});
  }
  for (const auto& [identity, runs] : groups) report.cells.push_back(cell_of(runs, report.notes));
  name_sizes(report.cells);
  std::map<std::string, std::vector<Cell*>> rivals;
  for (Cell& cell : report.cells) rivals[cell.task + "\n" + cell.mechanism].push_back(&cell);
  for (auto& [name, cells] : rivals) tell_apart(cells, report.notes);
  name_protocols(report.cells);
  std::stable_sort(report.cells.begin(), report.cells.end(), [](const Cell& a, const Cell& b) {
    const auto key = [](const Cell& cell) {
      return std::make_tuple(task_rank(cell.task), cell.task, mechanism_rank(cell.mechanism), cell.mechanism,
                             cell.variation);
    };
    return key(a) < key(b);
  });
  note_mixtures(report.cells, report.notes);
  return report;
}

}  // namespace tern::report
