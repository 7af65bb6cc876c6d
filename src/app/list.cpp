// tern list attention|tasks|objectives|schedules|devices
#include <thread>

#include "app/commands.h"
#include "app/output.h"
#include "config/scalar.h"
#include "tern/attention.h"
#include "tern/device.h"
#include "tern/objective.h"
#include "tern/optimizer.h"
#include "tern/task.h"

namespace tern::app {
namespace {

io::Json options_json(const ChoiceKind& kind) {
  io::Json rows = io::Json::array();
  const std::unique_ptr<Record> record = kind.make();
  Fields fields;
  record->fields(fields);
  for (const Field& field : fields.list())
    if (const auto* slot = std::get_if<Slot>(&field.target))
      rows.push_back({{"key", field.key},
                      {"type", config::type_text(*slot)},
                      {"default", config::yaml_text(*slot, slot->get())},
                      {"range", field.constraint.text},
                      {"meaning", field.meaning}});
  return rows;
}

io::Json kind_json(const ChoiceKind& kind) {
  return {{"name", kind.name}, {"summary", kind.summary}, {"options", options_json(kind)}};
}

io::Json attention_json() {
  io::Json all = io::Json::array();
  for (const AttentionKind& kind : attention_kinds()) {
    io::Json entry = kind_json(kind.config);
    entry["traits"] = {{"time", kind.traits.time == Growth::linear ? "linear" : "quadratic"},
                       {"exact", kind.traits.exact},
                       {"stochastic", kind.traits.stochastic},
                       {"batch_independent", kind.traits.batch_independent},
                       {"padding_free", kind.traits.padding_free},
                       {"is_gradient_exact", kind.traits.is_gradient_exact}};
    all.push_back(entry);
  }
  return all;
}

io::Json choices_json(std::span<const ChoiceKind> kinds) {
  io::Json all = io::Json::array();
  for (const ChoiceKind& kind : kinds) all.push_back(kind_json(kind));
  return all;
}

io::Json devices_json() {
  io::Json devices = io::Json::array(
      {{{"name", "cpu"},
        {"summary", format_text("{} threads, instruction set x86-64-{}", threads(), name(cpu_isa()))},
        {"options", io::Json::array()}}});
  if (cuda_devices() > 0)
    devices.push_back({{"name", "cuda"}, {"summary", cuda_description()}, {"options", io::Json::array()}});
  return devices;
}

std::string traits_text(const io::Json& traits) {
  std::string text = traits["time"].get<std::string>() + " time";
  for (const auto& [trait, value] : traits.items())
    if (value.is_boolean() && value.get<bool>())
      text += ", " + (trait == "is_gradient_exact" ? "gradient_exact" : trait);
  return text;
}

void print_kind(const io::Json& kind, const std::string& section) {
  print(kind["name"].get<std::string>() + ": " + kind["summary"].get<std::string>() + "\n");
  if (kind.contains("traits")) print("  " + traits_text(kind["traits"]) + "\n");
  if (kind["options"].empty()) return;
  std::vector<Row> rows;
  for (const io::Json& option : kind["options"]) {
    Row row{"  " + section + "." + option["key"].get<std::string>()};
    for (const char* column : {"default", "type", "range", "meaning"})
      row.push_back(option[column].get<std::string>());
    rows.push_back(row);
  }
  print(table_text(rows));
}

void add_list(CLI::App& list, const char* word, const char* summary, const std::string& section,
              const std::function<io::Json()>& kinds) {
  CLI::App* command = list.add_subcommand(word, summary);
  command->footer(std::string("Example: tern list ") + word);
  auto as_json = std::make_shared<bool>(false);
  command->add_flag("--json", *as_json, "print JSON");
  command->callback([=] {
    const io::Json all = kinds();
    if (*as_json) return print_json(all);
    for (const io::Json& kind : all) {
      if (&kind != &all.front()) print("\n");
      print_kind(kind, section);
    }
  });
}

}  // namespace

void add_list_command(CLI::App& app) {
  CLI::App* list = app.add_subcommand("list", "what a configuration can name, with all options");
  list->footer("Examples: tern list attention\n          tern list tasks --json");
  list->require_subcommand(1);
  add_list(*list, "attention", "attention mechanisms: model.attention.kind", "model.attention", attention_json);
  add_list(*list, "tasks", "tasks: task.kind", "task", [] { return choices_json(task_choices()); });
  add_list(*list, "objectives", "what training minimises: objective.kind", "objective",
           [] { return choices_json(objective_choices()); });
  add_list(*list, "schedules", "learning-rate schedules: schedule.kind", "schedule",
           [] { return choices_json(schedule_choices()); });
  add_list(*list, "devices", "devices that this machine offers: run.device", "", devices_json);
}

}  // namespace tern::app
