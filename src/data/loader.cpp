#include "data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <limits>
#include <mutex>
#include <numeric>
#include <span>
#include <thread>
#include <utility>

#include <pthread.h>
#include <signal.h>

#include "tern/error.h"
#include "tern/random.h"

namespace tern::data {
namespace {

void check(const RecordFile& file, const LoaderOptions& options) {
  require(options.batch_size >= 1 && options.world_size >= 1 && options.batch_size % options.world_size == 0,
          "loader: batch_size must be a positive multiple of the number of ranks, got {} for {} ranks",
          options.batch_size, options.world_size);
  require(options.rank >= 0 && options.rank < options.world_size, "loader: rank must lie in [0, {}), got {}",
          options.world_size, options.rank);
  require(options.max_length >= 0 && options.padded_length >= 0 && options.prefetch >= 0,
          "loader: max_length, padded_length and prefetch must not be negative, got {}, {} and {}",
          options.max_length, options.padded_length, options.prefetch);
  require(file.count() > 0, "{}: must hold at least one record", file.path());
  if (options.verify) file.verify();
}

/// Appends the present places of one sequence to `batch`.
void append_sequence(const RecordFile& file, std::int64_t record, int which, const LoaderOptions& options,
                     Batch& batch) {
  const std::size_t begin = batch.tokens.size();
  const std::int64_t vocabulary = file.header().vocabulary;
  file.tokens(record, which).visit([&](auto ids) {
    const std::size_t cut = options.max_length == 0
                                ? ids.size()
                                : std::min(ids.size(), static_cast<std::size_t>(options.max_length));
    require(begin + cut <= static_cast<std::size_t>(INT32_MAX),
            "loader: a batch must have at most 2^31 - 1 tokens; lower batch_size");
    batch.tokens.resize(begin + cut);
    batch.position.resize(begin + cut);
    std::size_t end = begin;
    for (std::size_t i = 0; i < cut; ++i) {
      const auto id = static_cast<std::int32_t>(ids[i]);
      if (id < 0 || id >= vocabulary) file.fail_token(record, id);
      batch.tokens[end] = id;
      batch.position[end] = static_cast<std::int32_t>(i);
      end += id != 0 || !options.mask_zero;
    }
    batch.tokens.resize(end);
    batch.position.resize(end);
  });
  const std::size_t end = batch.tokens.size();
  batch.offsets.push_back(static_cast<std::int32_t>(end));
  batch.longest = std::max(batch.longest, static_cast<std::int64_t>(end - begin));
}

Batch build_batch(const RecordFile& file, std::span<const std::int64_t> records, const LoaderOptions& options) {
  Batch batch;
  batch.records = static_cast<std::int64_t>(records.size());
  batch.padded_length = options.padded_length != 0 ? options.padded_length : file.header().padded_length;
  batch.offsets.push_back(0);
  const int sequences = file.header().sequences_per_record;
  for (int which = 0; which < sequences; ++which) {
    for (const std::int64_t record : records) {
      append_sequence(file, record, which, options, batch);
      batch.sample.push_back(sequences * record + which);
    }
  }
  for (const std::int64_t record : records) {
    if (file.header().label_kind == LabelKind::classes) {
      batch.labels.push_back(file.label(record));
    } else {
      batch.targets.push_back(file.target(record));
    }
  }
  return batch;
}

/// The part of `length` consecutive records from `begin` on that belongs to this rank.
std::pair<std::int64_t, std::int64_t> rank_part(std::int64_t begin, std::int64_t length,
                                                const LoaderOptions& options) {
  return {begin + length * options.rank / options.world_size,
          begin + length * (options.rank + 1) / options.world_size};
}

/// Starts a thread that receives no signals, so that they reach the threads that handle them.
template <class Body>
std::thread start_quiet_thread(Body body) {
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigdelset(&blocked, fault);
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  std::thread thread;
  try {
    thread = std::thread(std::move(body));
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace

/// One thread that keeps up to `depth` batches ready, in order, until `build` gives none. It ends at an
/// exception too, which take() throws after the batches before it.
class Prefetcher {
 public:
  Prefetcher(int depth, std::function<std::optional<Batch>()> build)
      : depth_(static_cast<std::size_t>(depth)), build_(std::move(build)) {
    thread_ = start_quiet_thread([this] { run(); });
  }

  ~Prefetcher() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  std::optional<Batch> take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !ready_.empty() || ended_; });
    if (ready_.empty() && failure_) std::rethrow_exception(failure_);
    if (ready_.empty()) return std::nullopt;
    Batch batch = std::move(ready_.front());
    ready_.pop_front();
    lock.unlock();
    changed_.notify_all();
    return batch;
  }

 private:
  void run() {
    std::exception_ptr failure;
    try {
      while (wait_for_room()) {
        std::optional<Batch> batch = build_();
        if (!batch) break;
        const std::lock_guard lock(mutex_);
        ready_.push_back(std::move(*batch));
        changed_.notify_all();
      }
    } catch (...) {
      failure = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    ended_ = true;
    failure_ = failure;
    changed_.notify_all();
  }

  /// False when the loader is closing.
  bool wait_for_room() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopped_ || ready_.size() < depth_; });
    return !stopped_;
  }

  std::size_t depth_;
  std::function<std::optional<Batch>()> build_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> ready_;
  std::exception_ptr failure_;
  bool stopped_ = false, ended_ = false;
  std::thread thread_;
};

std::vector<std::int64_t> shuffled_order(std::int64_t count, std::uint64_t seed, std::uint32_t epoch) {
  const RandomStream stream{stream_key(seed, "loader.shuffle"), &epoch};
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = order.size(); i-- > 1;) {
    const PhiloxWords words = stream.words(0, i / 2);
    const std::size_t half = 2 * (i % 2);
    const std::uint64_t bits = words.word[half] | std::uint64_t{words.word[half + 1]} << 32;
    std::swap(order[i],
              order[static_cast<std::size_t>((static_cast<unsigned __int128>(bits) * (i + 1)) >> 64)]);
  }
  return order;
}

TrainLoader::TrainLoader(std::shared_ptr<const RecordFile> file, const LoaderOptions& options)
    : file_(std::move(file)), options_(options) {
  check(*file_, options_);
}

TrainLoader::~TrainLoader() = default;

Batch TrainLoader::next() {
  if (options_.prefetch > 0 && !prefetcher_) {
    prefetcher_ = std::make_unique<Prefetcher>(options_.prefetch, [this, at = position_]() mutable {
      return build(std::exchange(at, at + options_.batch_size));
    });
  }
  try {
    std::optional<Batch> batch = prefetcher_ ? prefetcher_->take() : build(position_);
    position_ += options_.batch_size;
    return std::move(*batch);
  } catch (...) {
    prefetcher_.reset();  // its thread has ended; a further call tries again from the same position
    throw;
  }
}

Batch TrainLoader::build(std::int64_t position) {
  std::vector<std::int64_t> records;
  const auto [begin, end] = rank_part(position, options_.batch_size, options_);
  for (std::int64_t at = begin; at < end; ++at) {
    const std::int64_t epoch = at / file_->count();
    if (epoch != order_epoch_) {
      order_ = shuffled_order(file_->count(), options_.seed, static_cast<std::uint32_t>(epoch));
      order_epoch_ = epoch;
    }
    records.push_back(order_[static_cast<std::size_t>(at % file_->count())]);
  }
  return build_batch(*file_, records, options_);
}

void TrainLoader::restore(std::int64_t position) {
  require(position >= 0, "loader: a position must not be negative, got {}", position);
  prefetcher_.reset();
  position_ = position;
}

std::int64_t TrainLoader::epoch() const { return position_ / file_->count(); }

EvalLoader::EvalLoader(std::shared_ptr<const RecordFile> file, const LoaderOptions& options)
    : file_(std::move(file)), options_(options) {
  check(*file_, options_);
}

EvalLoader::~EvalLoader() = default;

std::optional<Batch> EvalLoader::next() {
  if (options_.prefetch == 0) return build();
  if (!prefetcher_) prefetcher_ = std::make_unique<Prefetcher>(options_.prefetch, [this] { return build(); });
  return prefetcher_->take();
}

void EvalLoader::reset() {
  prefetcher_.reset();
  position_ = 0;
}

std::optional<Batch> EvalLoader::build() {
  const std::int64_t length = std::min(options_.batch_size, file_->count() - position_);
  if (length == 0) return std::nullopt;
  const auto [begin, end] = rank_part(position_, length, options_);
  std::vector<std::int64_t> records(static_cast<std::size_t>(end - begin));
  std::iota(records.begin(), records.end(), begin);
  position_ += length;
  return build_batch(*file_, records, options_);
}

std::int64_t EvalLoader::batches() const {
  return (file_->count() + options_.batch_size - 1) / options_.batch_size;
}

}  // namespace tern::data
