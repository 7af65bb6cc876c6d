// Training steps on the experiment's device. On the CPU a step is done when launch() returns; on a GPU it is
// enqueued, as captured graphs where run.graphs asks for them, and its outcome comes later.
#pragma once

#include <deque>

#include "tern/communicator.h"
#include "tern/experiment.h"
#include "training/batch_feed.h"
#include "training/graph_cache.h"

namespace tern {

/// What one update saw, over all micro-batches and ranks.
struct StepOutcome {
  StepState state;
  std::int64_t tokens = 0;            ///< of this rank
  std::vector<std::int64_t> samples;  ///< of this rank
  /// Of the mean gradient, in the order of the parameters; empty where the step was finite.
  std::vector<double> gradient_norms;
};

class StepRunner {
 public:
  /// `source` gives micro-batches without end. `graphs` may serve no other runner: they hold addresses of this
  /// one.
  StepRunner(Experiment& experiment, Communicator& communicator, BatchSource source, GraphCache& graphs);
  ~StepRunner();
  StepRunner(const StepRunner&) = delete;
  StepRunner& operator=(const StepRunner&) = delete;

  /// One update from the next training.accumulate micro-batches. Throws Error(failed) with advice on the batch
  /// size where memory runs out.
  void launch(std::uint32_t step, double learning_rate, double beta1);
  /// Updates that were launched and not yet taken: at most most_pending() when launch() is called.
  std::size_t pending() const { return pending_.size(); }
  std::size_t most_pending() const { return slots_.empty() ? 0 : slots_.size() - 1; }
  /// Waits for the oldest of them.
  StepOutcome take();
  /// Most memory that tensors took at once on the device.
  std::int64_t peak_bytes() const;

 private:
  /// Where the device writes what an update found.
  struct Slot {
    PinnedMemory memory;
    DeviceEvent written;
  };
  void compute(std::uint32_t step, double learning_rate, double beta1);
  void reduce();
  void fetch();

  Experiment& experiment_;
  Communicator& communicator_;
  BatchFeed feed_;
  GraphCache& graphs_;
  std::vector<Slot> slots_;  ///< on a GPU
  std::size_t next_slot_ = 0;
  std::deque<StepOutcome> pending_;
  std::int64_t part_tokens_ = 0;  ///< of the micro-batch in work, for advice
};

/// Records of the parts that a batch is computed in.
std::int64_t part_records(const Experiment& experiment);
/// Bytes of the largest packed batch of `records` records of the experiment's task.
std::size_t largest_batch_bytes(const Experiment& experiment, std::int64_t records);

}  // namespace tern
