// Finished runs as reports see them, read from what runs write (result.json) or from a ledger.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "io/json.h"

namespace tern::report {

/// Points (step, value) in the order of the steps.
using Curve = std::vector<std::pair<double, double>>;

struct RunRecord {
  std::string name;  ///< of the run folder or ledger file
  std::filesystem::path source;
  io::Json result;                            ///< result.json, whole
  std::map<std::string, std::string> config;  ///< dotted key -> YAML text
  Curve dev_accuracy, train_loss;

  std::uint64_t seed = 0;
  double test = 0, dev = 0, majority = 0;  ///< shares of right answers
  std::optional<double> drop_last;         ///< of the test split's whole batches, where it has one
  std::int64_t steps = 0, parameters = 0, device_bytes = 0;
  double seconds = 0, dev_seconds = 0, test_seconds = 0;
  std::string fingerprint, finished, commit;
  std::string device;  ///< "NVIDIA H100 80GB HBM3", or the processor's name

  /// Value of a configuration key, or nothing.
  std::string config_value(const std::string& key) const;
  /// Hash of what train, dev and test were read from: first 8 digits.
  std::string data_hash() const;
};

/// A run that began but has no result.
struct RunGap {
  std::string name, state, reason;
  std::optional<double> step = {};          ///< the last in its metrics
  std::optional<double> dev_accuracy = {};  ///< the best so far
  std::filesystem::path source = {};        ///< its folder
};

struct Findings {
  std::vector<RunRecord> runs;      ///< by name
  std::vector<RunGap> gaps;         ///< by name
  std::set<std::string> not_begun;  ///< names of planned runs that began in none of the folders
};

/// Reads one result.json or ledger entry. Error(bad_data) naming file and key for one that lacks something,
/// such as a result of 0.1.0.
RunRecord read_run(const std::filesystem::path& file);

/// All runs at or below the given paths: result.json files, run folders, folders of a sweep (whose unfinished
/// runs become gaps), ledgers (folders of entries), and folders of these. What is reached twice counts once.
/// Error(missing_input) for a path that is not there.
Findings find_runs(const std::vector<std::filesystem::path>& paths);

/// A ledger entry: the result and its curves, without paths of the machine that it ran on.
io::Json ledger_entry(const RunRecord& run);
/// Writes the entry of each run into `ledger` as <name>-<first digits of the fingerprint>.json; returns how
/// many were not there before.
int add_to_ledger(const std::filesystem::path& ledger, const std::vector<RunRecord>& runs);

}  // namespace tern::report
