// Carries out the runs of a sweep: each a process of its own, several at a time, until all are done or a signal
// asks to stop.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/child_process.h"
#include "app/sweep_plan.h"

namespace tern::app {

/// A place where one run at a time computes.
struct SweepSlot {
  std::string device;   ///< "GPU 0", "CPU"
  std::string visible;  ///< its CUDA_VISIBLE_DEVICES; empty on the CPU
};
/// `jobs` slots on each GPU, in turns, or on the CPU where there is none. `visible` is this process's own
/// CUDA_VISIBLE_DEVICES, whose names the GPUs keep.
std::vector<SweepSlot> sweep_slots(int gpus, const std::optional<std::string>& visible, std::int64_t jobs);

class SweepRunner {
 public:
  /// `folder` must be locked by the caller. Runs that are not chosen, or done, keep their state.
  SweepRunner(std::filesystem::path folder, std::vector<PlannedRun> runs, std::vector<SweepSlot> slots);
  ~SweepRunner();

  /// Returns when no run is left, or, once stop_requested(), when all that were running have saved and ended. A
  /// run that fails is recorded, and the others go on. sweep.json is rewritten at each change.
  void run();

  std::int64_t count(RunState state) const;
  /// Names of the runs in a state, joined by ", ".
  std::string names(RunState state) const;
  /// Head and a row for each chosen run: run, state, test accuracy, seconds, error.
  std::vector<std::vector<std::string>> rows() const;

 private:
  struct Entry;
  Entry* next_waiting();
  void start(Entry& entry, std::size_t slot);
  void finish(Entry& entry, int code);
  bool start_some();
  bool collect_ended();
  void stop_running();
  void write_state() const;
  void tell_progress();

  std::filesystem::path folder_;
  std::vector<SweepSlot> slots_;
  std::vector<bool> is_busy_;
  std::vector<Entry> entries_;
};

/// The last message of the program in what a run printed: the text behind the last "tern: ", in one line.
std::string last_message(const std::string& log);

}  // namespace tern::app
