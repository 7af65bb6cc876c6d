#include "tern/module.h"

namespace tern {
namespace {

std::string joined(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "." + name;
}

Tensor initial_value(const Shape& shape, Initializer initializer, const RandomStream& stream, DType dtype,
                     Device device) {
  if (initializer.law == Initializer::Law::constant) return full(shape, initializer.scale, dtype, device);
  const Tensor values = empty(shape, DType::float32);
  const std::span drawn(values.data<float>(), static_cast<std::size_t>(values.count()));
  const auto scale = static_cast<float>(initializer.scale);
  if (initializer.law == Initializer::Law::normal) {
    fill_normal(stream, 0, 0, drawn);
    for (float& value : drawn) value *= scale;
  } else {
    fill_uniform(stream, 0, 0, drawn);
    for (float& value : drawn) value = (2 * value - 1) * scale;
  }
  const Tensor out = empty(shape, dtype, device);
  copy(values, out);
  return out;
}

/// Elements of the flat block that a parameter takes: each begins at a multiple of 64, so that kernels may read
/// it in large pieces. The gaps hold zeros.
std::int64_t aligned_count(const Tensor& x) { return (x.count() + 63) / 64 * 64; }

}  // namespace

ParameterStore::ParameterStore(std::uint64_t seed, const std::uint32_t* step, DType dtype, Device device)
    : seed_(seed), step_(step), dtype_(dtype), device_(device) {}

Parameter& ParameterStore::get(const std::string& path, const Shape& shape, Initializer initializer,
                               Precision precision) {
  if (const auto found = by_path_.find(path); found != by_path_.end()) {
    ensure(found->second->value.shape() == shape, "parameter {}: shared as {}, asked for as {}", path,
           found->second->value.shape(), shape);
    return *found->second;
  }
  ensure(!values_.defined(), "parameter {}: made after flatten()", path);
  static constexpr std::uint32_t start = 0;
  const RandomStream stream{stream_key(seed_, path + ".initial"), &start};
  const Tensor master = initial_value(shape, initializer, stream, accumulate_type(dtype_), device_);
  Tensor value = master;
  if (precision == Precision::compute && dtype_ != master.dtype()) {
    value = empty(shape, dtype_, device_);
    copy(master, value);
  }
  parameters_.push_back({path, leaf(value), master});
  by_path_[path] = &parameters_.back();
  return parameters_.back();
}

void ParameterStore::flatten() {
  ensure(!values_.defined(), "flatten: called twice");
  const DType master = accumulate_type(dtype_);
  std::int64_t size = 0;
  for (const Parameter& parameter : parameters_) size += aligned_count(parameter.master);
  values_ = zeros({size}, master, device_);
  gradients_ = zeros({size}, master, device_);
  if (dtype_ != master) rounded_ = empty({size}, dtype_, device_);
  std::int64_t offset = 0;
  for (auto parameter = parameters_.rbegin(); parameter != parameters_.rend(); ++parameter) {
    const Shape shape = parameter->master.shape();
    const auto slice_of = [&](const Tensor& block) {
      return block.narrowed(0, offset, shape.count()).reshaped(shape);
    };
    const bool is_rounded = parameter->value.dtype() != master;
    copy(parameter->master, slice_of(values_));
    parameter->master = slice_of(values_);
    parameter->value = leaf(is_rounded ? slice_of(rounded_) : parameter->master, slice_of(gradients_));
    offset += aligned_count(parameter->master);
  }
  round_values();
}

void ParameterStore::round_values() {
  if (rounded_.defined()) copy(values_, rounded_);
}

std::vector<Tensor> ParameterStore::leaves(const std::string& prefix) const {
  std::vector<Tensor> out;
  for (const Parameter& parameter : parameters_)
    if (parameter.path.starts_with(prefix)) out.push_back(parameter.value);
  return out;
}

std::int64_t ParameterStore::count() const {
  std::int64_t total = 0;
  for (const Parameter& parameter : parameters_) total += parameter.master.count();
  return total;
}

Scope Scope::child(const std::string& name) const {
  Scope out = *this;
  out.path_ = joined(path_, name);
  out.stream_path_ = joined(stream_path_, name);
  return out;
}

Scope Scope::with_streams_of(const Scope& other) const {
  Scope out = *this;
  out.stream_path_ = other.stream_path_;
  return out;
}

Parameter& Scope::parameter(const std::string& name, const Shape& shape, Initializer initializer,
                            Precision precision) const {
  return store_->get(joined(path_, name), shape, initializer, precision);
}

RandomStream Scope::stream(const std::string& name) const { return store_->stream(joined(stream_path_, name)); }

}  // namespace tern
