// Runs the command line inside the test process.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace tern::test {

struct Outcome {
  int code = -1;
  std::string out, err;  ///< what stdout and stderr got
};

/// `tern <arguments>`.
Outcome tern_command(const std::vector<std::string>& arguments);

/// The program as a user starts it, which stands beside the test: `tern <arguments>` under sh in `folder`. Both
/// streams come back in `out`.
Outcome tern_process(const std::string& arguments, const std::filesystem::path& folder);

/// Whether `text` holds `part`; an empty part is a mistake of the test.
bool holds(const std::string& text, const std::string& part);

inline std::filesystem::path source_folder() { return TERN_SOURCE_DIR; }
inline std::string config_file(const std::string& name) {
  return (source_folder() / "configs" / name).string();
}

/// Prepares 60 + 20 + 21 short ListOps records in `folder`.
void prepare_short_data(const std::filesystem::path& folder);

/// `train` arguments that learn from such data for `steps` steps of 8 records, within a second.
std::vector<std::string> short_training(const std::filesystem::path& data, const std::filesystem::path& run,
                                        int steps);

}  // namespace tern::test
