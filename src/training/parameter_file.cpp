#include "training/parameter_file.h"

#include "core/accumulate.h"

namespace tern {
namespace {

namespace fs = std::filesystem;

io::TensorRecord record_of(const std::string& name, const Tensor& x) {
  return {name, x.dtype(), std::vector<std::int64_t>(x.shape().begin(), x.shape().end()), bytes_of(x)};
}

void read_into(const io::SafetensorsFile& file, const std::string& name, const Tensor& target) {
  const io::TensorRecord& record = file.at(name);
  if (record.dtype != target.dtype() || Shape(record.shape) != target.shape())
    throw_error(ExitCode::bad_data,
                "{}: {} must be {} {}, got {} {}; the model differs from the one that wrote the file",
                file.path(), name, target.dtype(), target.shape(), record.dtype, Shape(record.shape));
  std::memcpy(target.address(), record.bytes.data(), record.bytes.size());
}

void require_no_other_tensors(const io::SafetensorsFile& file, std::size_t expected) {
  if (file.tensors().size() != expected)
    throw_error(ExitCode::bad_data,
                "{}: must hold {} tensors, got {}; the model differs from the one that wrote the file",
                file.path(), expected, file.tensors().size());
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

void save_parameters(const fs::path& file, const ParameterStore& store) {
  std::vector<io::TensorRecord> records;
  for (const Parameter& parameter : store.parameters())
    records.push_back(record_of(parameter.path, parameter.value));
  io::write_safetensors(file, records, {{"format", "tern"}});
}

void load_parameters(const fs::path& source, ParameterStore& store) {
  const io::SafetensorsFile file(parameter_file_of(source));
  require_no_other_tensors(file, store.parameters().size());
  for (const Parameter& parameter : store.parameters()) read_into(file, parameter.path, parameter.value);
}

void save_moments(const fs::path& file, const ParameterStore& store, const AdamW& optimizer) {
  const std::vector records{record_of("first_moment", optimizer.first_moment()),
                            record_of("second_moment", optimizer.second_moment())};
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
  read_into(file, "first_moment", optimizer.first_moment());
  read_into(file, "second_moment", optimizer.second_moment());
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
