#include "app/run_config.h"

#include <algorithm>

#include "config/suggest.h"

namespace tern::app {

ExperimentConfig load_run_config(const std::filesystem::path& run, const std::vector<std::string>& overrides,
                                 const std::vector<std::string>& others) {
  const std::filesystem::path file = run / "config.resolved.yaml";
  ExperimentConfig before, config;
  config::load(before, file);
  config::load(config, file, overrides);
  std::vector<std::string> read{"run", "model", "training.batch_size", "training.accumulate"};
  read.insert(read.end(), others.begin(), others.end());
  for (const config::Difference& difference : config::diff(before, config)) {
    const bool is_read = std::any_of(read.begin(), read.end(), [&](const std::string& key) {
      return difference.key == key || difference.key.starts_with(key + ".");
    });
    if (!is_read)
      throw_error(
          ExitCode::bad_config,
          "--set {}: this command reads overrides of {} alone, got {} in place of the run's {}; leave it out",
          difference.key, config::joined(read), difference.after.value_or("nothing"),
          difference.before.value_or("nothing"));
  }
  return config;
}

}  // namespace tern::app
