#include <algorithm>

#include <gtest/gtest.h>

#include "support/golden.h"
#include "support/tolerance.h"
#include "tern/optimizer.h"

namespace tern {
namespace {

using test::difference;
using test::Golden;

struct Chosen {
  Choice schedule{schedule_choices(), "constant"};
  void fields(Fields& f) { f("schedule", schedule, "learning rate by step"); }
};

std::unique_ptr<Schedule> schedule_of(const std::string& yaml) {
  Chosen chosen;
  config::load_text(chosen, "schedule: " + yaml, "schedule.yaml");
  return make_schedule(chosen.schedule);
}

struct Curve {
  std::vector<double> rate, beta1;
};
Curve curve_of(const Schedule& schedule, std::int64_t steps) {
  Curve curve;
  for (std::int64_t step = 0; step < steps; ++step) {
    const ScheduleValue value = schedule.at(step, steps);
    curve.rate.push_back(value.rate);
    curve.beta1.push_back(value.beta1.value_or(0.9));
  }
  return curve;
}

TEST(schedule, follows_the_golden_curves) {
  const Golden golden("schedules");
  int compared = 0;
  for (const auto& [run, options] : golden.config().items()) {
    const auto total = options["total"].get<std::int64_t>();
    const std::string warmup = std::to_string(options["warm_up"].get<std::int64_t>());
    for (const std::string kind :
         {"constant", "linear", "cosine", "inverse_sqrt", "one_cycle", "one_cycle_momentum"}) {
      if (!golden.has(run + "." + kind)) continue;
      const std::string cycling = kind == "one_cycle"            ? ", cycle_momentum: false"
                                  : kind == "one_cycle_momentum" ? ", cycle_momentum: true"
                                                                 : "";
      const std::string name = kind.starts_with("one_cycle") ? "one_cycle" : kind;
      Curve curve = curve_of(*schedule_of("{kind: " + name + ", warmup: " + warmup + cycling + "}"), total);
      for (double& rate : curve.rate) rate *= options["peak"].get<double>();
      EXPECT_EQ(difference(curve.rate, golden.values(run + "." + kind), 1e-14), "") << run << " " << kind;
      if (golden.has(run + "." + kind + ".beta1")) {
        EXPECT_EQ(difference(curve.beta1, golden.values(run + "." + kind + ".beta1"), 1e-14), "")
            << run << " " << kind;
      }
      ++compared;
    }
  }
  EXPECT_EQ(compared, 16);
}

TEST(schedule, one_cycle_without_a_rise_starts_at_the_peak) {
  const Curve curve = curve_of(*schedule_of("{kind: one_cycle, warmup: 1}"), 9);
  EXPECT_DOUBLE_EQ(curve.rate.front(), 1);
  EXPECT_DOUBLE_EQ(curve.beta1.front(), 0.85) << "the momentum is lowest where the rate is highest";
  EXPECT_NEAR(curve.rate.back(), 1 / 25e4, 1e-15);
  EXPECT_NEAR(curve.beta1.back(), 0.95, 1e-15);
  EXPECT_TRUE(std::is_sorted(curve.rate.rbegin(), curve.rate.rend()));
}

TEST(schedule, rates_stay_between_zero_and_the_peak_also_past_the_end) {
  for (const std::string kind : {"constant", "linear", "cosine", "inverse_sqrt", "one_cycle"})
    for (const std::int64_t steps : {1, 2, 5, 30})
      for (const std::int64_t warmup : {1, 5, 40}) {
        const auto schedule = schedule_of("{kind: " + kind + ", warmup: " + std::to_string(warmup) + "}");
        for (std::int64_t step = 0; step < 2 * steps; ++step) {
          const ScheduleValue value = schedule->at(step, steps);
          EXPECT_TRUE(value.rate >= 0 && value.rate <= 1)
              << kind << " " << steps << " " << warmup << " " << step;
          const double beta1 = value.beta1.value_or(0.9);
          EXPECT_TRUE(beta1 >= 0.85 && beta1 <= 0.95) << kind << " " << steps << " " << warmup << " " << step;
        }
      }
}

}  // namespace
}  // namespace tern
