// Scores of splits. On a GPU the batches run as captured graphs, which all evaluations of one object share.
#pragma once

#include <memory>

#include "data/record_file.h"
#include "tern/trainer.h"
#include "training/batch_feed.h"
#include "training/graph_cache.h"

namespace tern {

class Evaluator {
 public:
  /// `graphs` may serve no other evaluator: they hold addresses of this one.
  Evaluator(Experiment& experiment, GraphCache& graphs);

  /// Scores one split without recording; `limit` batches, 0 means all. Sampled attention draws from the current
  /// step. Stops early, with what it has, once stop_requested().
  TestScore score(const std::shared_ptr<const data::RecordFile>& file, std::int64_t limit = 0);

 private:
  /// Adds a batch to the sums.
  void add(const FedBatch& batch);

  Experiment& experiment_;
  GraphCache& graphs_;
  BatchFeed feed_;
  Tensor sums_;     ///< ScoreTotals of what is being added up, and of the whole batches once they are through
  Tensor outputs_;  ///< of the present batch of a regression: [records] float64; else undefined
};

}  // namespace tern
