#include "training/splits.h"

#include <algorithm>

namespace tern {

std::shared_ptr<const data::RecordFile> open_split(const std::filesystem::path& path, const Task& task) {
  if (!std::filesystem::exists(path))
    throw_error(ExitCode::missing_input, "{}: the prepared data are missing; make them with: {}", path,
                task.prepare_command);
  auto file = std::make_shared<const data::RecordFile>(path);
  file->verify();  // damage is told before the first step, not at the first evaluation
  if (file->header().vocabulary > task.interface.vocabulary)
    throw_error(ExitCode::bad_data, "{}: holds ids up to {}, but task.vocabulary is {}", path,
                file->header().vocabulary - 1, task.interface.vocabulary);
  return file;
}

data::LoaderOptions evaluation_loader_options(const Experiment& experiment) {
  data::LoaderOptions options;
  options.batch_size = experiment.config.training.batch_size;
  options.max_length = experiment.task.max_length;
  options.padded_length = experiment.task.interface.padded_length;
  options.mask_zero = experiment.task.mask_zero;
  return options;
}

data::LoaderOptions training_loader_options(const Experiment& experiment, const Communicator& communicator) {
  data::LoaderOptions options = evaluation_loader_options(experiment);
  options.batch_size /= experiment.config.training.accumulate;
  options.seed = experiment.config.run.seed;
  options.rank = communicator.rank();
  options.world_size = communicator.size();
  return options;
}

double majority_share(const data::RecordFile& file) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(file.header().classes));
  for (std::int64_t r = 0; r < file.count(); ++r) ++counts[static_cast<std::size_t>(file.label(r))];
  return static_cast<double>(*std::max_element(counts.begin(), counts.end())) /
         static_cast<double>(file.count());
}

}  // namespace tern
