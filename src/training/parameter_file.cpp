#include "training/parameter_file.h"

#include "core/accumulate.h"

namespace tern {
namespace {

namespace fs = std::filesystem;

/// `x` must live as long as the record.
io::TensorRecord record_of(const std::string& name, const Tensor& x) {
  return {name, x.dtype(), std::vector<std::int64_t>(x.shape().begin(), x.shape().end()), bytes_of(x)};
}

void read_into(const io::SafetensorsFile& file, const std::string& name, const Tensor& target) {
  const io::TensorRecord& record = file.at(name);
  if (record.dtype != target.dtype() || Shape(record.shape) != target.shape())
    throw_error(ExitCode::bad_data,
                "{}: {} must be {} {}, got {} {}; the model differs from the one that wrote the file",
                file.path(), name, target.dtype(), target.shape(), record.dtype, Shape(record.shape));
  const Tensor host = target.device() == Device{} ? target : empty(target.shape(), target.dtype());
  if (!record.bytes.empty()) std::memcpy(host.address(), record.bytes.data(), record.bytes.size());
  if (target.device() != Device{}) copy(host, target);
}

void require_no_other_tensors(const io::SafetensorsFile& file, std::size_t expected) {
  if (file.tensors().size() != expected)
    throw_error(ExitCode::bad_data,
                "{}: must hold {} tensors, got {}; the model differs from the one that wrote the file",
                file.path(), expected, file.tensors().size());
}

/// `x` itself in host memory, or a copy there.
Tensor on_host(const Tensor& x) {
  if (x.device() == Device{}) return x;
  const Tensor host = empty(x.shape(), x.dtype());
  copy(x, host);
  return host;
}

/// Calls body(first element in the flat block, first element without gaps, count) for each parameter.
template <class Body>
void for_each_range(const ParameterStore& store, const Body& body) {
  std::int64_t packed = 0;
  const auto& parameters = store.parameters();
  for (auto parameter = parameters.rbegin(); parameter != parameters.rend(); ++parameter) {
    const std::int64_t count = parameter->master.count();
    body(parameter->master.offset() - store.values().offset(), packed, count);
    packed += count;
  }
}

/// Reads what packed_on_host() gave into a flat block.
void read_packed(const io::SafetensorsFile& file, const std::string& name, const ParameterStore& store,
                 const Tensor& block) {
  if (block.count() == store.count()) return read_into(file, name, block);
  const Tensor packed = empty({store.count()}, block.dtype()), host = zeros(block.shape(), block.dtype());
  read_into(file, name, packed);
  for_each_range(store, [&](std::int64_t to, std::int64_t from, std::int64_t count) {
    copy(packed.narrowed(0, from, count), host.narrowed(0, to, count));
  });
  copy(host, block);
}

/// A checkpoint folder is verified first: no damaged parameters are ever read from one.
fs::path parameter_file_of(const fs::path& source) {
  if (!fs::is_directory(source)) return source;
  if (const std::string fault = verify_checkpoint(source).fault; !fault.empty())
    throw_error(ExitCode::bad_data, "{}", fault);
  return source / "model.safetensors";
}

/// Paths in the order of the moments.
std::string parameter_order(const ParameterStore& store) {
  std::string order;
  for (const Parameter& parameter : store.parameters()) order += (order.empty() ? "" : " ") + parameter.path;
  return order;
}

}  // namespace

Tensor packed_on_host(const ParameterStore& store, const Tensor& block) {
  const Tensor host = on_host(block);
  if (block.count() == store.count()) return host;
  const Tensor packed = empty({store.count()}, block.dtype());
  for_each_range(store, [&](std::int64_t from, std::int64_t to, std::int64_t count) {
    copy(host.narrowed(0, from, count), packed.narrowed(0, to, count));
  });
  return packed;
}

void save_parameters(const fs::path& file, const ParameterStore& store) {
  const Tensor values = on_host(store.values());  // one copy of all
  std::vector<io::TensorRecord> records;
  for (const Parameter& parameter : store.parameters()) {
    const Shape& shape = parameter.master.shape();
    const std::int64_t first = parameter.master.offset() - store.values().offset();
    records.push_back(record_of(parameter.path, values.viewed(shape, contiguous_strides(shape), first)));
  }
  io::write_safetensors(file, records, {{"format", "tern"}});
}

void read_parameter(const io::SafetensorsFile& file, const Parameter& parameter) {
  read_into(file, parameter.path, parameter.master);
}

void load_parameters(const fs::path& source, ParameterStore& store) {
  const io::SafetensorsFile file(parameter_file_of(source));
  require_no_other_tensors(file, store.parameters().size());
  for (const Parameter& parameter : store.parameters()) read_parameter(file, parameter);
  store.round_values();
}

void save_moments(const fs::path& file, const ParameterStore& store, const AdamW& optimizer) {
  const Tensor first = packed_on_host(store, optimizer.first_moment()),
               second = packed_on_host(store, optimizer.second_moment());
  const std::vector records{record_of("first_moment", first), record_of("second_moment", second)};
  io::write_safetensors(file, records, {{"format", "tern"}, {"parameters", parameter_order(store)}});
}

void load_moments(const fs::path& path, const ParameterStore& store, AdamW& optimizer) {
  const io::SafetensorsFile file(path);
  require_no_other_tensors(file, 2);
  ensure(store.values().count() == optimizer.first_moment().count(), "moments of {} for {} parameters",
         optimizer.first_moment().count(), store.values().count());
  const auto order = file.metadata().find("parameters");
  if (order == file.metadata().end() || order->second != parameter_order(store))
    throw_error(ExitCode::bad_data,
                "{}: belongs to other parameters; the model differs from the one that wrote the file", path);
  read_packed(file, "first_moment", store, optimizer.first_moment());
  read_packed(file, "second_moment", store, optimizer.second_moment());
}

void average_checkpoints(const std::vector<fs::path>& checkpoints, const fs::path& target) {
  require(!checkpoints.empty(), "checkpoint average: needs at least one checkpoint");
  std::vector<Tensor> totals;
  std::vector<std::string> names;
  for (const fs::path& checkpoint : checkpoints) {
    const io::SafetensorsFile file(parameter_file_of(checkpoint));
    const bool is_first = totals.empty();
    if (!is_first) require_no_other_tensors(file, totals.size());
    for (std::size_t i = 0; i < file.tensors().size(); ++i) {
      const io::TensorRecord& record = is_first ? file.tensors()[i] : file.at(names[i]);
      if (record.dtype != DType::float32)
        throw_error(ExitCode::bad_data, "{}: {} must be float32 to be averaged, got {}", file.path(),
                    record.name, record.dtype);
      const Tensor value = empty(Shape(record.shape), DType::float32),
                   wide = empty(value.shape(), DType::float64);
      std::memcpy(value.address(), record.bytes.data(), record.bytes.size());
      copy(value, wide);
      if (is_first) {
        names.push_back(record.name);
        totals.push_back(wide);
        continue;
      }
      if (wide.shape() != totals[i].shape())
        throw_error(ExitCode::bad_data, "{}: {} must have shape {} as in {}, got {}", file.path(), record.name,
                    totals[i].shape(), checkpoints.front(), wide.shape());
      accumulate(wide, totals[i]);
    }
  }
  std::vector<io::TensorRecord> records;
  std::vector<Tensor> means;
  for (std::size_t i = 0; i < totals.size(); ++i) {
    double* sums = totals[i].data<double>();
    for (std::int64_t j = 0; j < totals[i].count(); ++j) sums[j] /= static_cast<double>(checkpoints.size());
    means.push_back(empty(totals[i].shape(), DType::float32));
    copy(totals[i], means.back());
    records.push_back(record_of(names[i], means.back()));
  }
  io::write_safetensors(target, records, {{"format", "tern"}});
}

}  // namespace tern
