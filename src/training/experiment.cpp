#include "tern/experiment.h"

#include "tern/logging.h"

namespace tern {
namespace {

MultiHeadAttention::Build attention_builder(const Choice& config) {
  return [&config](const Scope& scope, const AttentionShape& shape) {
    return find_attention_kind(config.kind()).build(config, scope, shape);
  };
}

Model flat_model(ParameterStore& store, const ExperimentConfig& config, const Task& task) {
  Model model(Scope(store), config.model, task.interface, attention_builder(config.model.attention));
  store.flatten();
  return model;
}

constexpr auto cpu_precision_text = "must be float32 (or auto) where run.device is cpu";
bool is_for_cpu(RunPrecision precision) {
  return precision == RunPrecision::automatic || precision == RunPrecision::float32;
}

ExperimentConfig resolved_run(ExperimentConfig config) {
  config.run = resolved(config.run);
  return config;
}

/// The device, once it is known to work and its kernels have their options.
Device prepared_device(const RunConfig& config) {
  const Device device = device_of(config);
  if (device.type == DeviceType::cuda) {
    if (cuda_devices() == 0)
      throw_error(ExitCode::failed,
                  "run.device: cuda needs a GPU: {}; set run.device=cpu and run.precision=auto",
                  cuda_description());
    set_cuda_options({config.deterministic, config.precision == RunPrecision::tf32});
    synchronize(device);  // throws where this program cannot use it
  }
  return device;
}

}  // namespace

RunConfig resolved(RunConfig config) {
  if (config.device == RunDevice::automatic) {
    config.device = cuda_devices() > 0 ? RunDevice::cuda : RunDevice::cpu;
    const std::string gpu = cuda_description();
    if (gpu.starts_with("no GPU")) logging::warning("device", "{}; the CPU is used", gpu);
  }
  const bool is_cpu = config.device == RunDevice::cpu;
  if (is_cpu && !is_for_cpu(config.precision))
    throw_error(ExitCode::bad_config, "run.precision {}, got {}", cpu_precision_text,
                name_of(config.precision));
  if (config.precision == RunPrecision::automatic)
    config.precision = is_cpu ? RunPrecision::float32 : RunPrecision::bfloat16;
  return config;
}

DType model_type(RunPrecision precision) {
  return precision == RunPrecision::bfloat16 ? DType::bfloat16 : DType::float32;
}

Device device_of(const RunConfig& config) {
  ensure(config.device != RunDevice::automatic, "device_of: the configuration is not resolved");
  return config.device == RunDevice::cuda ? Device{DeviceType::cuda, 0} : Device{};
}

void RunConfig::fields(Fields& f) {
  f("seed", seed, "seed of initial weights, shuffling, dropout and hashing");
  f("threads", threads, "CPU threads; 0 means one for each core; results do not depend on it", between(0, 4096))
      .changeable();
  f("device", device, "where to compute; auto means a GPU where there is one");
  f("precision", precision,
    "type of activations and products; tf32 is float32 with rounded factors of products; auto means bfloat16 "
    "on a GPU and float32 on the CPU");
  f("deterministic", deterministic,
    "equal runs end in equal bits on a GPU too, at some cost in speed; on the CPU they always do");
  f("graphs", graphs, "launch captured steps and evaluations as one on a GPU; results are the same without")
      .changeable();
  f("out", out, "folder that holds run folders", not_empty()).changeable();
  f("name", name, "run folder's name; empty means the configuration's name, attention and seed").changeable();
  f.require(device != RunDevice::cpu || is_for_cpu(precision), "precision", cpu_precision_text);
}

void TrainingConfig::fields(Fields& f) {
  f("steps", steps, "updates", between(1, 4e9)).changeable();
  f("batch_size", batch_size, "examples of one update", between(1, 1 << 20));
  f("accumulate", accumulate, "parts that a batch is computed in, to save memory; must divide batch_size",
    at_least(1));
  f("evaluate_every", evaluate_every, "updates between evaluations on dev", at_least(1));
  f("evaluate_batches", evaluate_batches, "batches of one dev evaluation; 0 means all", at_least(0));
  f("checkpoint_every", checkpoint_every, "updates between checkpoints", at_least(1)).changeable();
  f("keep_checkpoints", keep_checkpoints, "newest checkpoints kept besides the best", between(1, 1e6))
      .changeable();
  f("log_every", log_every, "updates between rows of metrics.jsonl", at_least(1)).changeable();
  f("log_samples", log_samples, "whether those rows name the examples of their batch").changeable();
  f("max_skipped", max_skipped, "non-finite updates in a row that end the run", at_least(1)).changeable();
  f("start_from", start_from,
    "run folder, checkpoint or .safetensors file whose encoder training starts from; empty means random "
    "values");
  f.require(accumulate < 1 || batch_size % accumulate == 0, "accumulate",
            format_text("must divide training.batch_size ({})", batch_size));
}

void ExperimentConfig::fields(Fields& f) {
  f("run", run, "the run itself");
  f("task", task, "what to learn");
  f("model", model, "the encoder");
  f("objective", objective, "what training minimises");
  f("optimizer", optimizer, "AdamW");
  f("schedule", schedule, "learning rate by step");
  f("training", training, "length, batches, evaluation, checkpoints");
}

Experiment::Experiment(const ExperimentConfig& chosen, std::optional<DType> dtype)
    : Experiment(chosen, make_task(chosen.task), dtype) {}

Experiment::Experiment(const ExperimentConfig& chosen, const Task& chosen_task, std::optional<DType> dtype)
    : config(resolved_run(chosen)),
      task(task_for(config.objective, chosen_task)),
      state(prepared_device(config.run)),
      store(config.run.seed, state.step(), dtype.value_or(model_type(config.run.precision)), state.device()),
      model(flat_model(store, config, task)),
      objective(make_objective(config.objective, task, store)),
      optimizer(store, config.optimizer),
      schedule(make_schedule(config.schedule)) {}

}  // namespace tern
