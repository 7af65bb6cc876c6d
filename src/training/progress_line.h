// The line that tells a person how training goes: rewritten in place on a terminal, one plain line now and then
// elsewhere.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/clock.h"

namespace tern {

struct StepReport {
  std::int64_t step = 0, steps = 0;
  double loss = 0;
  std::optional<double> accuracy;
  double tokens_per_second = 0, steps_per_second = 0;
  std::int64_t memory_bytes = 0;
};

class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();
  /// Whether enough time has passed since the last one; the last step's is always due.
  bool is_due(bool is_last) const;
  void show(const StepReport& report);
  /// Ends an open terminal line, so that other output starts on its own.
  void finish();

 private:
  bool is_terminal_, is_open_ = false;
  Clock::time_point last_;
};

/// "1:02:03" or "02:03".
std::string clock_text(double seconds);

}  // namespace tern
