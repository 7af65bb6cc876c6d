// Times and memory of repeated work on one device.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "app/bench.h"
#include "base/clock.h"
#include "base/cuda_graph.h"
#include "base/cuda_memory.h"
#include "base/cuda_path.h"
#include "config/suggest.h"
#include "tern/memory.h"
#include "training/graph_cache.h"

namespace tern::app {
namespace {

/// Gives the memory of captured graphs back, so that the next case finds all of it.
struct ArenaReturn {
  Device device;
  explicit ArenaReturn(Device where) : device(where) {}
  ~ArenaReturn() {
    if (device.type == DeviceType::cpu) return;
    try {
      resize_graph_arena(device.index, 0);
    } catch (const Error&) {  // what failed before is on its way to the caller
    }
  }
  ArenaReturn(const ArenaReturn&) = delete;
  ArenaReturn& operator=(const ArenaReturn&) = delete;
};

/// A call that takes longer is not repeated to warm up, and the host need not run ahead of it.
constexpr double long_seconds = 1;

/// One call after another. With `is_ahead` the host enqueues a call while the one before runs, so that no pause
/// stands between them.
std::vector<double> device_milliseconds(Device device, const Repetitions& repetitions, bool is_ahead,
                                        const std::function<void()>& call) {
  std::vector<DeviceEvent> events(1);
  const Clock::time_point start = Clock::now();
  events.front().record(device.index);
  for (int i = 0; i < repetitions.most; ++i) {
    if (const int awaited = is_ahead ? i - 1 : i; awaited > 0) events[static_cast<std::size_t>(awaited)].wait();
    if (i > 0 && seconds_since(start) > repetitions.seconds) break;
    call();
    events.emplace_back().record(device.index);
  }
  events.back().wait();
  std::vector<double> milliseconds;
  for (std::size_t i = 1; i < events.size(); ++i)
    milliseconds.push_back(static_cast<double>(events[i].since(events[i - 1])));
  return milliseconds;
}

std::vector<double> host_milliseconds(const Repetitions& repetitions, const std::function<void()>& call) {
  std::vector<double> milliseconds;
  const Clock::time_point begin = Clock::now();
  for (int i = 0; i < repetitions.most; ++i) {
    if (i > 0 && seconds_since(begin) > repetitions.seconds) break;
    const Clock::time_point start = Clock::now();
    call();
    milliseconds.push_back(1000 * seconds_since(start));
  }
  return milliseconds;
}

}  // namespace

std::int64_t live_bytes(Device device) {
  return device.type == DeviceType::cuda ? device_memory(device.index).live_bytes
                                         : memory_statistics().live_bytes;
}

void reset_peak_bytes(Device device) {
  reset_peak_memory();
  if (device.type == DeviceType::cuda) reset_device_memory_peak(device.index);
}

std::int64_t peak_bytes(Device device) {
  return device.type == DeviceType::cuda ? device_memory(device.index).peak_bytes
                                         : memory_statistics().peak_bytes;
}

Timing time_calls(Device device, const Repetitions& repetitions, const std::function<void()>& body) {
  const bool is_gpu = device.type == DeviceType::cuda;
  const ArenaReturn at_the_end(device);
  GraphCache graphs(device, true);
  const auto call = [&] { graphs.run({}, body); };
  Timing timing;
  const std::int64_t before = live_bytes(device);
  reset_peak_bytes(device);
  const Clock::time_point start = Clock::now();
  call();
  synchronize(device);
  const bool is_long = seconds_since(start) > long_seconds;
  timing.peak_bytes = peak_bytes(device) - before;
  if (repetitions.most == 0) return timing;
  for (int i = 0; is_gpu && !is_long && i < 2; ++i) call();  // the first of them is captured
  synchronize(device);
  timing.milliseconds =
      is_gpu ? device_milliseconds(device, repetitions, !is_long, call) : host_milliseconds(repetitions, call);
  synchronize(device);
  return timing;
}

double Timing::median() const {
  std::vector<double> sorted = milliseconds;
  std::sort(sorted.begin(), sorted.end());
  return sorted.at(sorted.size() / 2);
}

double Timing::mean() const {
  return std::accumulate(milliseconds.begin(), milliseconds.end(), 0.0) /
         static_cast<double>(milliseconds.size());
}

double Timing::deviation() const {
  if (milliseconds.size() < 2) return 0;
  double squares = 0;
  for (const double value : milliseconds) squares += (value - mean()) * (value - mean());
  return std::sqrt(squares / static_cast<double>(milliseconds.size() - 1));
}

std::string take_path(Device device) {
  const std::string reported = config::joined(take_reported_paths());
  return device.type == DeviceType::cpu ? "x86-64-" + std::string(name(cpu_isa())) : reported;
}

}  // namespace tern::app
