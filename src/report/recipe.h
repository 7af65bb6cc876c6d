// What was run, in words: the names of task, mechanism and data, and the settings that decide a score.
#pragma once

#include <map>
#include <string>

#include "report/run_record.h"

namespace tern::report {

/// The column of a run: the task's kind; Pathfinder carries its side, Path-X its name, and a task on data of
/// one's own their folder in front ("reviews (classification)").
std::string task_name(const RunRecord& run);

/// The row of a run: the name that publications use where there is one ("Softmax", "YOSO-32", "YOSO-E"), else
/// the kind; with ", pre-trained" for a run that began with the parameters of another.
std::string mechanism_name(const RunRecord& run);

/// The configuration without what cannot change a score (folders, threads, logging) and without the seed: runs
/// that agree in it, and in their data, are repetitions of one experiment.
std::map<std::string, std::string> recipe_of(const RunRecord& run);
/// First 8 digits of the recipe's hash.
std::string recipe_hash(const RunRecord& run);

/// Whether the run predicts labels; others (masked tokens, targets) have no accuracy that a table could hold.
bool predicts_labels(const RunRecord& run);
/// Whether the run began with the parameters of another.
bool is_pretrained(const RunRecord& run);

/// What a score on a run's data may be called.
enum class DataOrigin {
  own,         ///< a task that is not the benchmark's
  published,   ///< the benchmark's own files, all of them
  generated,   ///< made by the benchmark's rule, at its size
  variant,     ///< by its rule or from its files, but shorter, fewer or of another difficulty
  substitute,  ///< other data in the place of the benchmark's
};
DataOrigin data_origin(const RunRecord& run);
/// The name of the enumerator.
std::string origin_name(DataOrigin origin);
/// What readers of a table must be told; empty for own and published data.
std::string origin_remark(DataOrigin origin);

}  // namespace tern::report
