#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "support/golden.h"
#include "support/tolerance.h"
#include "tern/optimizer.h"

namespace tern {
namespace {

using test::difference;
using test::Golden;
using Values = std::vector<double>;

void assign(const Tensor& target, const Values& values) { copy(from_vector(values, target.shape()), target); }

/// Three parameters of the golden file's shapes, with the file's initial values.
struct Parameters {
  StepMemory state;
  ParameterStore store;
  explicit Parameters(const Golden& golden, DType dtype = DType::float64) : store(1, state.step(), dtype) {
    for (int i = 0; i < 3; ++i)
      store.get("p" + std::to_string(i), golden.tensor("initial." + std::to_string(i)).shape(), constant(0));
    store.flatten();
    for (int i = 0; i < 3; ++i) assign(value(i), golden.values("initial." + std::to_string(i)));
  }
  const Tensor& value(int i) const { return store.parameters()[static_cast<std::size_t>(i)].value; }
  /// The elements of a block laid out as the values, last parameter first.
  Values packed(const Tensor& block) const {
    Values all;
    for (int i = 2; i >= 0; --i) {
      const Tensor& master = store.parameters()[static_cast<std::size_t>(i)].master;
      const std::int64_t first = master.offset() - store.values().offset();
      const Values part = block.narrowed(0, first, master.count()).to_vector<double>();
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }
  void set_gradients(const Golden& golden, int update, double factor) {
    for (int i = 0; i < 3; ++i) {
      Values all = golden.values("gradient." + std::to_string(i));
      const std::size_t count = all.size() / 5, first = static_cast<std::size_t>(update) * count;
      Values part(all.begin() + static_cast<std::ptrdiff_t>(first),
                  all.begin() + static_cast<std::ptrdiff_t>(first + count));
      for (double& g : part) g *= factor;
      assign(gradient_of(value(i)), part);
    }
  }
};

/// One update whose batch had `loss` over `targets` targets.
StepState apply(AdamW& optimizer, StepMemory& state, double rate, double beta1, double loss, double targets) {
  state.begin(0, rate, beta1);
  *state.score() = {loss, 0, targets};
  optimizer.step(state);
  return state.read();
}

Values row_of(const Values& rows, int row) {
  const std::size_t count = rows.size() / 5;
  const auto first = rows.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(row) * count);
  return {first, first + static_cast<std::ptrdiff_t>(count)};
}

/// Five updates; the golden run changes beta2 as well, so each update has an optimizer of its own that takes
/// over the moments.
void check_against_golden(double weight_decay, DType dtype, double relative,
                          DecayedParameters decayed = DecayedParameters::matrices) {
  const Golden golden("adamw");
  const Values rates = golden.values("learning_rate"), beta1 = golden.values("beta1"),
               beta2 = golden.values("beta2");
  Parameters parameters(golden, dtype);
  constexpr double targets = 8;  // gradients are sums over targets
  std::optional<AdamW> previous;
  for (int update = 0; update < 5; ++update) {
    const auto u = static_cast<std::size_t>(update);
    OptimizerConfig config;
    config.beta2 = beta2[u];
    config.weight_decay = weight_decay;
    config.decayed = decayed;
    AdamW optimizer(parameters.store, config);
    if (previous) {
      copy(previous->first_moment(), optimizer.first_moment());
      copy(previous->second_moment(), optimizer.second_moment());
    }
    parameters.set_gradients(golden, update, targets);
    EXPECT_TRUE(apply(optimizer, parameters.state, rates[u], beta1[u], 1.0, targets).is_finite);
    for (int i = 0; i < 3; ++i) {
      const bool is_decayed = decayed == DecayedParameters::all || parameters.value(i).rank() >= 2;
      const std::string run = weight_decay > 0 && is_decayed ? "decay." : "plain.";
      const Values expected = row_of(golden.values(run + std::to_string(i)), update);
      EXPECT_EQ(difference(parameters.value(i).to_vector<double>(), expected, relative), "")
          << run << i << " after update " << update + 1;
    }
    previous.emplace(optimizer);
  }
  EXPECT_EQ(parameters.state.read().updates, 5);
}

TEST(adamw, follows_pytorch_without_decay) { check_against_golden(0, DType::float64, 1e-14); }
TEST(adamw, follows_pytorch_with_decay_of_matrices) { check_against_golden(0.1, DType::float64, 1e-14); }
TEST(adamw, follows_pytorch_with_decay_of_all) {
  check_against_golden(0.1, DType::float64, 1e-14, DecayedParameters::all);
}
TEST(adamw, follows_pytorch_in_float32) { check_against_golden(0.1, DType::float32, 1e-6); }

TEST(adamw, moments_follow_pytorch) {
  const Golden golden("adamw");
  Parameters parameters(golden);
  OptimizerConfig config;
  AdamW optimizer(parameters.store, config);
  // The first moment after one update is (1 - beta1) g, the second (1 - beta2) g^2, in the flat block's order:
  // last first.
  parameters.set_gradients(golden, 0, 1);
  apply(optimizer, parameters.state, 1e-2, 0.95, 1.0, 1);
  Values first, second;
  for (int i = 2; i >= 0; --i)
    for (const double g : row_of(golden.values("gradient." + std::to_string(i)), 0)) {
      first.push_back((1 - 0.95) * g);
      second.push_back((1 - 0.999) * g * g);
    }
  EXPECT_EQ(difference(parameters.packed(optimizer.first_moment()), first, 1e-14), "");
  EXPECT_EQ(difference(parameters.packed(optimizer.second_moment()), second, 1e-14), "");
}

TEST(adamw, clips_the_norm_of_the_mean_gradient) {
  const Golden golden("adamw");
  double squares = 0;
  for (int i = 0; i < 3; ++i)
    for (const double g : row_of(golden.values("gradient." + std::to_string(i)), 1)) squares += g * g;
  const double norm = std::sqrt(squares);
  for (const double limit : {norm / 3, norm * 3, 0.0}) {
    Parameters parameters(golden), reference(golden);
    OptimizerConfig config, unclipped;
    config.clip_norm = limit;
    AdamW optimizer(parameters.store, config), plain(reference.store, unclipped);
    parameters.set_gradients(golden, 1, 4);  // four targets
    reference.set_gradients(golden, 1, limit > 0 ? std::min(1.0, limit / norm) : 1.0);
    const StepState state = apply(optimizer, parameters.state, 1e-2, 0.9, 1.0, 4);
    apply(plain, reference.state, 1e-2, 0.9, 1.0, 1);
    EXPECT_NEAR(state.gradient_norm, norm, 1e-12 * norm) << "before clipping";
    for (int i = 0; i < 3; ++i)
      EXPECT_EQ(
          difference(parameters.value(i).to_vector<double>(), reference.value(i).to_vector<double>(), 1e-13),
          "");
    EXPECT_EQ(difference(optimizer.second_moment().to_vector<double>(),
                         plain.second_moment().to_vector<double>(), 1e-13),
              "");
  }
}

TEST(adamw, norms_are_those_of_each_parameters_gradient) {
  StepMemory state;
  ParameterStore store(1, state.step(), DType::float64);
  for (const std::int64_t count : {5000, 3, 2048})
    store.get("of " + std::to_string(count), {count}, constant(0));
  store.flatten();
  AdamW optimizer(store, {});
  Values expected;
  for (const Parameter& parameter : store.parameters()) {
    const double each = 1.0 + static_cast<double>(expected.size());
    assign(gradient_of(parameter.value), Values(static_cast<std::size_t>(parameter.value.count()), each));
    expected.push_back(each * std::sqrt(static_cast<double>(parameter.value.count())));
  }
  apply(optimizer, state, 0.1, 0.9, 1, 4);
  EXPECT_EQ(difference(optimizer.gradient_norms(optimizer.squares().to_vector<double>()), expected, 1e-12), "");
}

TEST(adamw, a_step_that_is_not_finite_changes_nothing) {
  const Golden golden("adamw");
  const double infinity = std::numeric_limits<double>::infinity(),
               nan = std::numeric_limits<double>::quiet_NaN();
  for (const DType dtype : {DType::float32, DType::float64})
    for (const double bad : {nan, infinity, -infinity, 1e38}) {
      if (bad == 1e38 && dtype == DType::float64) continue;  // its square is finite there
      Parameters parameters(golden, dtype);
      AdamW optimizer(parameters.store, {});
      const auto step = [&](double loss) { return apply(optimizer, parameters.state, 1e-2, 0.9, loss, 1); };
      parameters.set_gradients(golden, 0, 1);
      step(1.0);
      const Values before = parameters.store.values().to_vector<double>(),
                   moment = optimizer.second_moment().to_vector<double>();
      parameters.set_gradients(golden, 1, 1);
      Values gradient = gradient_of(parameters.value(0)).to_vector<double>();
      gradient[7] = bad;
      assign(gradient_of(parameters.value(0)), gradient);
      EXPECT_FALSE(step(1.0).is_finite) << bad;
      parameters.set_gradients(golden, 1, 1);
      EXPECT_FALSE(step(std::isnan(bad) ? nan : infinity).is_finite) << "loss";
      EXPECT_EQ(parameters.store.values().to_vector<double>(), before);
      EXPECT_EQ(optimizer.second_moment().to_vector<double>(), moment);
      EXPECT_EQ(parameters.state.read().updates, 1);
      EXPECT_TRUE(step(1.0).is_finite) << "after a skipped step the next one counts";
      EXPECT_EQ(parameters.state.read().updates, 2);
      EXPECT_NE(parameters.store.values().to_vector<double>(), before);
    }
}

}  // namespace
}  // namespace tern
