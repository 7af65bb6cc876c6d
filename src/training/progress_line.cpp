#include "training/progress_line.h"

#include <algorithm>
#include <cstdio>

#include <unistd.h>

#include "tern/logging.h"

namespace tern {
namespace {

constexpr double terminal_seconds = 0.2, plain_seconds = 10;

std::string text_of(const StepReport& report) {
  char accuracy[40] = "", text[200];
  if (report.accuracy) std::snprintf(accuracy, sizeof accuracy, "accuracy %.3f  ", *report.accuracy);
  std::snprintf(
      text, sizeof text, "step %lld/%lld  loss %.4f  %s%.1f steps/s  %.0f tokens/s  %lld MiB  ETA %s",
      static_cast<long long>(report.step), static_cast<long long>(report.steps), report.loss, accuracy,
      report.steps_per_second, report.tokens_per_second, static_cast<long long>(report.memory_bytes >> 20),
      clock_text(static_cast<double>(report.steps - report.step) / std::max(report.steps_per_second, 1e-9))
          .c_str());
  return text;
}

}  // namespace

std::string clock_text(double seconds) {
  const auto total = static_cast<long long>(std::min(seconds, 3.6e6));
  char text[40];
  if (total >= 3600)
    std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", total / 3600, total / 60 % 60, total % 60);
  else
    std::snprintf(text, sizeof text, "%02lld:%02lld", total / 60, total % 60);
  return text;
}

ProgressLine::ProgressLine() : is_terminal_(isatty(STDERR_FILENO) == 1), last_(Clock::now()) {}
ProgressLine::~ProgressLine() { finish(); }

bool ProgressLine::is_due(bool is_last) const {
  return is_last || seconds_since(last_) >= (is_terminal_ ? terminal_seconds : plain_seconds);
}

void ProgressLine::show(const StepReport& report) {
  last_ = Clock::now();
  if (!is_terminal_) return logging::info("train", "{}", text_of(report));
  std::fprintf(stderr, "\r\033[K%s", text_of(report).c_str());
  is_open_ = true;
}

void ProgressLine::finish() {
  if (is_open_) std::fputc('\n', stderr);
  is_open_ = false;
}

}  // namespace tern
