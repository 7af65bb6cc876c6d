// tern describe CONFIG
#include "app/commands.h"
#include "app/experiment_options.h"
#include "app/output.h"
#include "training/cost.h"

namespace tern::app {
namespace {

struct DescribeOptions {
  ExperimentOptions experiment;
  std::vector<std::int64_t> lengths{512, 1024, 2048, 4096, 8192, 16384};
  bool as_json = false;
};

io::Json parameters_json(const ParameterStore& store) {
  io::Json rows = io::Json::array();
  for (const Parameter& parameter : store.parameters())
    rows.push_back(
        {{"path", parameter.path},
         {"shape", std::vector<std::int64_t>(parameter.value.shape().begin(), parameter.value.shape().end())},
         {"count", parameter.value.count()}});
  return rows;
}

/// Type of the rows where the run would compute.
DType row_type(const RunConfig& run) {
  const bool is_open = run.precision == RunPrecision::automatic;
  return model_type(is_open ? resolved(run).precision : run.precision);
}

io::Json cost_json(const Experiment& experiment, std::int64_t length, DType dtype) {
  const TrainingConfig& training = experiment.config.training;
  const auto cost = [&](std::int64_t examples) {
    return estimate_cost(experiment.config.model, experiment.task.interface, experiment.store.count(),
                         {examples, length, dtype});
  };
  return {{"length", length},
          {"forward_operations", cost(1).forward_operations},
          {"training_operations", cost(1).training_operations},
          {"step_operations", cost(training.batch_size).training_operations},
          {"step_bytes", cost(training.batch_size / training.accumulate).training_bytes}};
}

std::string counted(std::int64_t count, const std::string& noun) {
  return thousands_text(count) + " " + noun + (count == 1 ? "" : "s");
}

std::string task_text(const Experiment& experiment) {
  const TaskInterface& task = experiment.task.interface;
  const std::string answer = task.predicts_tokens ? "hidden tokens"
                             : task.is_regression ? "a number"
                                                  : thousands_text(task.outputs) + " classes";
  return format_text("{}: {} of at most {}, {}, {}", experiment.config.task.kind(),
                     task.is_pair ? "pairs of sequences" : "sequences", counted(task.padded_length, "token"),
                     counted(task.vocabulary, "id"), answer);
}

void print_facts(const Experiment& experiment) {
  const ModelConfig& model = experiment.config.model;
  const TrainingConfig& training = experiment.config.training;
  print(table_text(
      {{"task", task_text(experiment)},
       {"objective", experiment.config.objective.kind()},
       {"attention", model.attention.kind()},
       {"model", format_text("{}{} of width {}, {}, hidden width {}", counted(model.layers, "layer"),
                             model.shared_layers ? " of the same weights" : "", model.width,
                             counted(model.heads, "head"), model.hidden_width)},
       {"training", counted(training.steps, "step") + " of " + counted(training.batch_size, "example")},
       {"parameters", thousands_text(experiment.store.count())}}));
}

void print_parameters(const ParameterStore& store) {
  std::vector<Row> rows{{"parameter", "shape", "count"}};
  for (const Parameter& parameter : store.parameters())
    rows.push_back({parameter.path, to_text(parameter.value.shape()), thousands_text(parameter.value.count())});
  rows.push_back({"total", "", thousands_text(store.count())});
  print("\n" + table_text(rows));
}

void print_costs(const io::Json& costs, const TrainingConfig& training, DType dtype) {
  std::vector<Row> rows{{"length", "forward FLOP", "forward + backward", "step", "step memory"}};
  for (const io::Json& cost : costs)
    rows.push_back({thousands_text(cost["length"].get<std::int64_t>()),
                    quantity_text(cost["forward_operations"].get<double>()),
                    quantity_text(cost["training_operations"].get<double>()),
                    quantity_text(cost["step_operations"].get<double>()),
                    bytes_text(cost["step_bytes"].get<double>())});
  const std::string parts = training.accumulate > 1 ? format_text(" in {} parts", training.accumulate) : "";
  print(format_text("\nestimates by length: one example, and a step of {}{} in {}\n", training.batch_size,
                    parts, dtype) +
        table_text(rows));
}

void describe(const DescribeOptions& options) {
  const ExperimentConfig config = load_experiment(options.experiment);
  ExperimentConfig here = config;  // nothing is computed: no GPU is needed
  here.run.device = RunDevice::cpu;
  here.run.precision = RunPrecision::float32;
  const Experiment experiment(here);
  const DType dtype = row_type(config.run);
  io::Json costs = io::Json::array();
  for (const std::int64_t length : options.lengths) costs.push_back(cost_json(experiment, length, dtype));
  if (options.as_json)
    return print_json({{"task", config.task.kind()},
                       {"objective", config.objective.kind()},
                       {"attention", config.model.attention.kind()},
                       {"config", config::dump(config)},
                       {"parameters", parameters_json(experiment.store)},
                       {"parameter_count", experiment.store.count()},
                       {"dtype", to_text(dtype)},
                       {"costs", costs}});
  print_facts(experiment);
  print_costs(costs, config.training, dtype);
  print_parameters(experiment.store);
}

}  // namespace

void add_describe_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "describe", "what a configuration trains: model, operations, memory, parameters; needs no data");
  auto options = std::make_shared<DescribeOptions>();
  command->footer(
      "Examples: tern describe configs/lra/listops.yaml\n"
      "          tern describe configs/lra/listops.yaml --set model.attention.kind=yoso --lengths 2048,65536\n"
      "The configuration itself: tern config show, with the same file and --set");
  add_experiment_options(*command, options->experiment);
  command->add_option("--lengths", options->lengths, "sequence lengths in tokens, separated by commas")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 24))
      ->capture_default_str();
  command->add_flag("--json", options->as_json, "print JSON");
  command->callback([options] { describe(*options); });
}

}  // namespace tern::app
