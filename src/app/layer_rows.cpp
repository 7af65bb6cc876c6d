#include "app/layer_rows.h"

#include <algorithm>

#include "data/loader.h"
#include "tern/experiment.h"
#include "tern/ops.h"
#include "training/device_batch.h"
#include "training/run_files.h"
#include "training/splits.h"

namespace tern::app {
namespace {

/// A mechanism that notes what it was given last.
class NotedAttention final : public Attention {
 public:
  NotedAttention(std::unique_ptr<Attention> mechanism, LayerRows& notes)
      : mechanism_(std::move(mechanism)), notes_(notes) {}
  Tensor forward(const AttentionInput& in) override {
    notes_.query = contiguous(in.query);
    notes_.key = contiguous(in.key);
    notes_.value = contiguous(in.value);
    return mechanism_->forward(in);
  }

 private:
  std::unique_ptr<Attention> mechanism_;
  LayerRows& notes_;
};

/// Builds the configured mechanism in every layer, and notes the rows of one of them. Layers are built in
/// order.
MultiHeadAttention::Build noting_builder(const Choice& config, std::int64_t layer, LayerRows& notes) {
  return [&config, &notes, layer, built = std::int64_t{0}](const Scope& scope,
                                                           const AttentionShape& shape) mutable {
    auto mechanism = find_attention_kind(config.kind()).build(config, scope, shape);
    if (built++ != layer) return mechanism;
    return std::unique_ptr<Attention>(std::make_unique<NotedAttention>(std::move(mechanism), notes));
  };
}

ExperimentConfig configuration_of(const LayerSource& source) {
  std::vector<std::string> overrides = source.overrides;
  overrides.insert(overrides.end(), {"run.device=cpu", "run.precision=float32"});
  ExperimentConfig config;
  config::load(config, run_folder_of(source.path) / "config.resolved.yaml", overrides);
  require(source.layer < config.model.layers, "--layer: must lie in 0 to {}, the layers of {}, got {}",
          config.model.layers - 1, source.path, source.layer);
  return config;
}

data::Batch first_batch(const Task& task, std::int64_t records) {
  const auto file = open_split(task.dev, task);
  data::LoaderOptions options;
  options.batch_size = std::min(records, file->count());
  options.max_length = task.max_length;
  options.padded_length = task.interface.padded_length;
  options.mask_zero = task.mask_zero;
  options.verify = false;  // open_split() did
  std::optional<data::Batch> batch = data::EvalLoader(file, options).next();
  if (!batch) throw_error(ExitCode::bad_data, "{}: holds no records", task.dev);
  return *std::move(batch);
}

}  // namespace

LayerRows layer_rows(const LayerSource& source) {
  const ChosenCheckpoint chosen = choose_checkpoint(source.path);
  const ExperimentConfig config = configuration_of(source);
  const Task task = task_for(config.objective, make_task(config.task));
  const data::Batch batch = first_batch(task, source.records);

  LayerRows rows;
  const StepMemory state;
  ParameterStore store(config.run.seed, state.step());
  Model model(Scope(store), config.model, task.interface,
              noting_builder(config.model.attention, source.layer, rows));
  store.flatten();
  load_parameters(chosen.path, store);

  const NoGradientScope no_gradient;
  const DeviceBatch tensors = host_batch(batch);
  model(tensors.tokens, tensors.layout, false);
  rows.offsets = batch.offsets;
  rows.sample = batch.sample;
  rows.padded_length = batch.padded_length;
  rows.checkpoint = chosen.path;
  rows.step = chosen.step;
  return rows;
}

LayerRows first_rows(const LayerRows& rows, std::int64_t length) {
  LayerRows out = rows;
  out.offsets = {0};
  out.sample.clear();
  std::vector<Tensor> query, key, value;
  for (std::size_t s = 0; s + 1 < rows.offsets.size(); ++s) {
    const std::int64_t first = rows.offsets[s];
    if (rows.offsets[s + 1] - first < length) continue;
    query.push_back(slice(rows.query, 0, first, length));
    key.push_back(slice(rows.key, 0, first, length));
    value.push_back(slice(rows.value, 0, first, length));
    out.offsets.push_back(out.offsets.back() + static_cast<std::int32_t>(length));
    out.sample.push_back(rows.sample[s]);
  }
  require(!query.empty(), "--lengths: no sequence of the batch has {} tokens; raise --records or lower it",
          length);
  out.query = concatenate(query, 0);
  out.key = concatenate(key, 0);
  out.value = concatenate(value, 0);
  out.padded_length = length;
  return out;
}

}  // namespace tern::app
