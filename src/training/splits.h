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

/// Throws Error(bad_data) unless a model of the task can read the file: its ids, sequences and kind of labels.
void require_readable(const data::RecordFile& file, const TaskInterface& task);

/// Whole batches in order, as evaluation reads them.
data::LoaderOptions evaluation_loader_options(const Experiment& experiment);
/// The parts that a batch is computed in, shuffled by the run's seed, divided among the ranks.
data::LoaderOptions training_loader_options(const Experiment& experiment, const Communicator& communicator);

/// Share of the most frequent label.
double majority_share(const data::RecordFile& file);

}  // namespace tern
