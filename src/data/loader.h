// From record files to ragged batches: sequences stand one after another and masked places are absent.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "data/record_file.h"

namespace tern::data {

/// A ragged batch in host memory. Pair tasks hold 2 * records sequences: all first ones, then all second ones.
struct Batch {
  std::vector<std::int32_t> tokens;    ///< [tokens] ids
  std::vector<std::int32_t> position;  ///< [tokens] place in the original sequence
  std::vector<std::int32_t> offsets;   ///< [sequences + 1] first token of each sequence
  std::vector<std::int64_t>
      sample;  ///< [sequences] coordinate of the random streams: record, or 2 * record + which
  std::vector<std::int32_t> labels;  ///< [records], or empty for regression
  std::vector<float> targets;        ///< [records], or empty for classification
  std::int64_t records = 0;
  std::int64_t longest = 0;        ///< tokens of the longest sequence of this batch
  std::int64_t padded_length = 0;  ///< published length, the divisor of mean pooling

  std::int64_t sequences() const { return static_cast<std::int64_t>(sample.size()); }
};

struct LoaderOptions {
  std::int64_t batch_size = 32;    ///< records of one batch over all ranks; a multiple of world_size
  std::int64_t max_length = 0;     ///< sequences are cut to this many places; 0 = uncut
  std::int64_t padded_length = 0;  ///< 0 = the file's
  bool mask_zero = true;           ///< ids equal to 0 are absent
  bool verify = true;              ///< hash the whole file once before reading
  std::uint64_t seed = 0;          ///< of the shuffle
  int rank = 0, world_size = 1;    ///< rank r takes the r-th part of each batch
  int prefetch = 4;                ///< batches built ahead by one background thread; 0 = none
};

/// Order of the records in an epoch: Fisher-Yates from the last place down, place i exchanged with place
/// floor(u_i * (i + 1) / 2^64), where u_i are the 64-bit halves (low word first) of the Philox blocks i / 2 of
/// the stream "loader.shuffle" under `seed` with step = epoch. Linear.
std::vector<std::int64_t> shuffled_order(std::int64_t count, std::uint64_t seed, std::uint32_t epoch);

class Prefetcher;

/// An endless stream of shuffled batches. The stream is the orders of epochs 0, 1, ... one after another;
/// batches run on across the end of an epoch. Nothing depends on the prefetch depth or on timing; ranks only
/// divide each batch.
class TrainLoader {
 public:
  /// Error(failed) for options that contradict themselves or an empty file; Error(bad_data) for a damaged one.
  TrainLoader(std::shared_ptr<const RecordFile> file, const LoaderOptions& options);
  ~TrainLoader();
  TrainLoader(const TrainLoader&) = delete;
  TrainLoader& operator=(const TrainLoader&) = delete;

  /// The next batch; errors of the background thread are thrown here.
  Batch next();
  /// Records consumed by all ranks since the start of epoch 0.
  std::int64_t position() const { return position_; }
  /// The next batch will begin at `position`.
  void restore(std::int64_t position);
  /// Epoch that the next batch begins in.
  std::int64_t epoch() const;

 private:
  Batch build(std::int64_t position);

  std::shared_ptr<const RecordFile> file_;
  LoaderOptions options_;
  std::int64_t position_ = 0;
  std::vector<std::int64_t> order_;  // of epoch order_epoch_; used by the thread that builds
  std::int64_t order_epoch_ = -1;
  std::unique_ptr<Prefetcher> prefetcher_;
};

/// All records once, in their order; the last batch may be smaller.
class EvalLoader {
 public:
  /// Errors as TrainLoader's.
  EvalLoader(std::shared_ptr<const RecordFile> file, const LoaderOptions& options);
  ~EvalLoader();
  EvalLoader(const EvalLoader&) = delete;
  EvalLoader& operator=(const EvalLoader&) = delete;

  /// The next batch, or nothing after the last. A rank's part of the last batch may be empty. Errors of the
  /// background thread are thrown here.
  std::optional<Batch> next();
  /// Starts again.
  void reset();
  /// Batches of one pass.
  std::int64_t batches() const;

 private:
  std::optional<Batch> build();

  std::shared_ptr<const RecordFile> file_;
  LoaderOptions options_;
  std::int64_t position_ = 0;  // of the batch that is built next
  std::unique_ptr<Prefetcher> prefetcher_;
};

}  // namespace tern::data
