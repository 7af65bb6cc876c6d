// What a trained model says of records, without labels and without recording.
#pragma once

#include <functional>
#include <span>

#include "tern/experiment.h"
#include "training/batch_feed.h"

namespace tern {

/// Gets the numbers of `records` records [records, outputs], in their order: logits of classes, or the number
/// of a regression.
using OutputReceiver = std::function<void(std::int64_t records, std::span<const double> outputs)>;

/// Calls `receive` for each batch of `batches`, none of which may have more than `largest_batch` records.
/// Sampled attention draws from the experiment's step and the batch's samples, not from how records are
/// batched. Error(failed) for a model that was trained to predict tokens.
void predict(Experiment& experiment, const BatchSource& batches, std::int64_t largest_batch,
             const OutputReceiver& receive);

}  // namespace tern
