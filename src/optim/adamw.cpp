#include <algorithm>
#include <cmath>

#include "core/dispatch.h"
#include "kernels/update.h"
#include "tern/optimizer.h"

namespace tern {
namespace {

constexpr std::int64_t chunk_elements = 2048;

/// The chunks of one trained parameter after another in the order of the flat block: last made first.
std::vector<kernels::UpdateChunk> update_chunks(const ParameterStore& store, DecayedParameters decayed) {
  std::vector<kernels::UpdateChunk> chunks;
  const auto& parameters = store.parameters();
  std::int32_t place = 0;
  for (auto parameter = parameters.rbegin(); parameter != parameters.rend(); ++parameter, ++place) {
    if (parameter->decay > 0) continue;
    const std::int64_t begin = parameter->master.offset() - store.values().offset(),
                       end = begin + parameter->master.count();
    const bool is_decayed = decayed == DecayedParameters::all || parameter->master.rank() >= 2;
    for (std::int64_t first = begin; first < end; first += chunk_elements)
      chunks.push_back({first, std::min(chunk_elements, end - first), place, is_decayed ? 1 : 0});
  }
  return chunks;
}

template <class T>
kernels::AveragedRows<T> averaged_rows(const Parameter& parameter) {
  const Tensor& w = parameter.master;
  return {w.count() / w.size(-1), w.size(-1), parameter.decay, gradient_of(parameter.value).data<const T>(),
          w.data<T>()};
}

Tensor bytes_on(Device device, const std::vector<kernels::UpdateChunk>& chunks) {
  std::vector<std::uint8_t> bytes(chunks.size() * sizeof(kernels::UpdateChunk));
  if (!bytes.empty()) std::memcpy(bytes.data(), chunks.data(), bytes.size());
  return from_vector(bytes, {static_cast<std::int64_t>(bytes.size())}, device);
}

}  // namespace

void OptimizerConfig::fields(Fields& f) {
  f("learning_rate", learning_rate, "peak learning rate", positive());
  f("beta1", beta1, "decay of the first moment, unless the schedule cycles it", at_least(0) && below(1));
  f("beta2", beta2, "decay of the second moment", at_least(0) && below(1));
  f("epsilon", epsilon, "added to the root of the second moment", at_least(1e-30));
  f("weight_decay", weight_decay, "decoupled decay, times the learning rate", at_least(0));
  f("decayed", decayed, "what decays: matrices and tables, or all parameters");
  f("clip_norm", clip_norm, "largest norm of the mean gradient; 0 means no clipping", at_least(0));
}

AdamW::AdamW(ParameterStore& store, const OptimizerConfig& config) : store_(store), config_(config) {
  ensure(store.values().defined(), "AdamW: the parameters must be flattened first");
  const Tensor& values = store.values();
  m_ = zeros(values.shape(), values.dtype(), values.device());
  v_ = zeros(values.shape(), values.dtype(), values.device());
  const std::vector<kernels::UpdateChunk> chunks = update_chunks(store, config.decayed);
  chunks_ = bytes_on(values.device(), chunks);
  squares_ = zeros({static_cast<std::int64_t>(chunks.size())}, DType::float64, values.device());
  const auto last = static_cast<std::int32_t>(store.parameters().size()) - 1;
  for (const kernels::UpdateChunk& chunk : chunks) chunk_parameter_.push_back(last - chunk.parameter);
}

void AdamW::step(StepMemory& state) {
  const Tensor &gradient = store_.gradients(), &values = store_.values(), &rounded = store_.rounded();
  const kernels::UpdateChunks chunks{reinterpret_cast<const kernels::UpdateChunk*>(chunks_.address()),
                                     squares_.count()};
  const kernels::AdamSettings settings{config_.beta2, config_.epsilon, config_.weight_decay, config_.clip_norm};
  dispatch(values, [&]<class T>(auto& device, Type<T>) {
    if constexpr (!std::is_same_v<T, bfloat16>) {
      kernels::measure_gradient<T>(device, chunks, settings, gradient.data<T>(), squares_.data<double>(),
                                   state.state());
      kernels::adamw<T>(device, chunks, settings, state.state(),
                        {gradient.data<T>(), m_.data<T>(), v_.data<T>(), values.data<T>(),
                         rounded.defined() ? rounded.data<bfloat16>() : nullptr});
      for (const Parameter& parameter : store_.parameters())
        if (parameter.decay > 0)
          kernels::average_directions<T>(device, state.state(), averaged_rows<T>(parameter));
    }
  });
}

std::vector<double> AdamW::gradient_norms(std::span<const double> squares) const {
  std::vector<double> norms(store_.parameters().size(), 0.0);
  for (std::size_t c = 0; c < chunk_parameter_.size(); ++c)
    norms[static_cast<std::size_t>(chunk_parameter_[c])] += squares[c];
  for (double& norm : norms) norm = std::sqrt(norm);
  return norms;
}

}  // namespace tern
