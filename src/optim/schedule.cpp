// Learning rates as pure functions of the step, so that a resumed run cannot drift.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "tern/optimizer.h"

namespace tern {
namespace {

/// Rises linearly over the first `warmup` updates: update t uses (t + 1) / warmup.
double warmup_factor(std::int64_t step, std::int64_t warmup) {
  return step < warmup ? static_cast<double>(step + 1) / static_cast<double>(warmup) : 1.0;
}

/// Share of the way from the end of the warm-up to the end of training.
double progress(std::int64_t step, std::int64_t warmup, std::int64_t steps) {
  return std::clamp(
      static_cast<double>(step - warmup) / static_cast<double>(std::max<std::int64_t>(1, steps - warmup)), 0.0,
      1.0);
}

struct WarmupConfig {
  std::int64_t warmup = 0;
  void fields(Fields& f) { f("warmup", warmup, "updates until the peak rate is reached", at_least(0)); }
};

struct ConstantConfig : WarmupConfig {
  static constexpr auto name = "constant", summary = "the peak rate after the warm-up";
  ScheduleValue at(std::int64_t step, std::int64_t) const { return {warmup_factor(step, warmup), {}}; }
};

struct LinearConfig : WarmupConfig {
  static constexpr auto name = "linear", summary = "down to zero in a line";
  ScheduleValue at(std::int64_t step, std::int64_t steps) const {
    return {step < warmup ? warmup_factor(step, warmup) : 1 - progress(step, warmup, steps), {}};
  }
};

struct CosineConfig : WarmupConfig {
  static constexpr auto name = "cosine",
                        summary = "down to zero along half a cosine (Loshchilov and Hutter 2017)";
  ScheduleValue at(std::int64_t step, std::int64_t steps) const {
    if (step < warmup) return {warmup_factor(step, warmup), {}};
    return {0.5 * (1 + std::cos(std::numbers::pi * progress(step, warmup, steps))), {}};
  }
};

struct InverseSqrtConfig : WarmupConfig {
  static constexpr auto name = "inverse_sqrt",
                        summary = "falls as 1 / sqrt(step) (Vaswani et al. 2017, section 5.3)";
  ScheduleValue at(std::int64_t step, std::int64_t) const {
    if (step < warmup) return {warmup_factor(step, warmup), {}};
    const auto start = static_cast<double>(std::max<std::int64_t>(warmup, 1));
    return {std::sqrt(start / static_cast<double>(step + 1)), {}};
  }
};

/// One cycle (Smith and Topin 2018) with linear phases, as PyTorch's OneCycleLR: rate peak / start_division up
/// to the peak at update warmup - 1, then down to peak / (start_division final_division) at the last; the
/// momentum runs opposite.
struct OneCycleConfig {
  static constexpr auto name = "one_cycle",
                        summary = "one linear cycle of rate and momentum (the published LRA schedule)";
  std::int64_t warmup = 1;
  double start_division = 25, final_division = 1e4;
  bool cycle_momentum = true;
  double lowest_momentum = 0.85, highest_momentum = 0.95;
  void fields(Fields& f) {
    f("warmup", warmup, "updates until the peak rate is reached", at_least(1));
    f("start_division", start_division, "peak rate over the first rate", at_least(1));
    f("final_division", final_division, "first rate over the last", at_least(1));
    f("cycle_momentum", cycle_momentum, "whether beta1 runs opposite to the rate, in place of optimizer.beta1");
    f("lowest_momentum", lowest_momentum, "beta1 at the peak rate", at_least(0) && below(1));
    f("highest_momentum", highest_momentum, "beta1 at both ends", at_least(0) && below(1));
  }
  ScheduleValue at(std::int64_t step, std::int64_t steps) const {
    const double peak_step = static_cast<double>(warmup - 1), last = static_cast<double>(steps - 1);
    const double start = 1 / start_division, end = start / final_division, t = static_cast<double>(step);
    const bool is_rising = t <= peak_step;
    const double rising_share = peak_step > 0 ? t / peak_step : 1;
    const double share = is_rising ? rising_share : (t - peak_step) / std::max(last - peak_step, 1.0);
    const auto between = [share](double from, double to) { return from + (to - from) * std::min(share, 1.0); };
    ScheduleValue value{is_rising ? between(start, 1) : between(1, end), {}};
    if (!cycle_momentum) return value;
    value.beta1 =
        is_rising ? between(highest_momentum, lowest_momentum) : between(lowest_momentum, highest_momentum);
    return value;
  }
};

template <class Config>
struct ScheduleOf final : Schedule {
  Config config;
  explicit ScheduleOf(const Config& chosen) : config(chosen) {}
  ScheduleValue at(std::int64_t step, std::int64_t steps) const override { return config.at(step, steps); }
};

template <class... Configs>
struct ScheduleList {
  static std::vector<ChoiceKind> choices() {
    return {choice_kind<Configs>(Configs::name, Configs::summary)...};
  }
  static std::unique_ptr<Schedule> make(const Choice& choice) {
    std::unique_ptr<Schedule> made;
    const auto try_make = [&]<class Config>(const Config*) {
      if (choice.kind() == Config::name) made = std::make_unique<ScheduleOf<Config>>(choice.as<Config>());
    };
    (try_make(static_cast<const Configs*>(nullptr)), ...);
    return made;
  }
};
using Schedules = ScheduleList<ConstantConfig, LinearConfig, CosineConfig, InverseSqrtConfig, OneCycleConfig>;

}  // namespace

std::span<const ChoiceKind> schedule_choices() {
  static const std::vector<ChoiceKind> choices = Schedules::choices();
  return choices;
}

std::unique_ptr<Schedule> make_schedule(const Choice& choice) {
  std::unique_ptr<Schedule> made = Schedules::make(choice);
  ensure(made != nullptr, "schedule: no kind {}", choice.kind());
  return made;
}

}  // namespace tern
