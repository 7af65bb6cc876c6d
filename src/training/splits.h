// The record files of a task, and how an experiment reads them.
#pragma once

#include <memory>

#include "data/loader.h"
#include "tern/communicator.h"
#include "tern/experiment.h"

namespace tern {

/// Opens and verifies one split. Error(missing_input) that names the command which makes it, Error(bad_data)
/// for a damaged one or one with more ids than the task. Linear in the file's size.
std::shared_ptr<const data::RecordFile> open_split(const std::filesystem::path& path, const Task& task);

/// Opens and verifies a file that a model of the task is to score. Error(bad_data) for a damaged one, for one
/// with more ids, other sequences or another kind of labels than the task has, and where both name their
/// classes and the names or their order differ. Linear in the file's size.
std::shared_ptr<const data::RecordFile> open_records(const std::filesystem::path& path, const Task& task);

/// Whole batches in order, as evaluation reads them.
data::LoaderOptions evaluation_loader_options(const Experiment& experiment);
/// The parts that a batch is computed in, shuffled by the run's seed, divided among the ranks.
data::LoaderOptions training_loader_options(const Experiment& experiment, const Communicator& communicator);

/// Share of the most frequent label.
double majority_share(const data::RecordFile& file);

}  // namespace tern
