// Parameters that are moving averages of directions: what an update does to them and what it leaves alone.
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "support/array.h"
#include "support/devices.h"
#include "support/tolerance.h"
#include "tern/optimizer.h"

namespace tern::test {
namespace {

constexpr double decay = 0.9;

/// Centroids [2, 3, 5] between two trained parameters, and gradients for all.
struct Parameters {
  StepMemory state;
  ParameterStore store;
  explicit Parameters(DType dtype, Device device = {}) : state(device), store(1, state.step(), dtype, device) {
    store.get("before", {4, 3}, normal(1));
    Parameter& centroids = store.get("centroids", {2, 3, 5}, normal(1));
    copy(unit_rows(centroids.master), centroids.master);
    centroids.decay = decay;
    store.get("behind", {7}, normal(1));
    store.flatten();
    set_gradients(1);
  }
  /// The gradients of row 2 are 0.
  void set_gradients(double factor) {
    for (const Parameter& parameter : store.parameters()) {
      Array gradient = mapped(normal_array(parameter.value.shape(), 530), [&](double g) { return factor * g; });
      if (parameter.path == "centroids") std::fill_n(gradient.values.begin() + 10, 5, 0.0);
      copy(tensor_of(gradient, gradient_of(parameter.value).dtype(), store.device()),
           gradient_of(parameter.value));
    }
  }
  Array values(std::size_t index) const { return array_of(store.parameters()[index].master); }
  StepState step(AdamW& optimizer, double loss = 1) {
    state.begin(0, 0.01, 0.9);
    if (store.device() == Device{}) *state.score() = {loss, 0, 2};
    optimizer.step(state);
    return state.read();
  }
};

/// w' = u / |u|, u = decay w - (1 - decay) g / |g|.
Array moved(const Array& w) {
  Array out = w;
  const Array g = normal_array(w.shape, 530);
  for (std::int64_t r = 0; r < 6; ++r) {
    if (r == 2) continue;
    double square = 0, length = 0;
    for (std::int64_t c = 0; c < 5; ++c) square += g[r * 5 + c] * g[r * 5 + c];
    for (std::int64_t c = 0; c < 5; ++c) {
      out[r * 5 + c] = decay * w[r * 5 + c] - (1 - decay) * g[r * 5 + c] / std::sqrt(square);
      length += out[r * 5 + c] * out[r * 5 + c];
    }
    for (std::int64_t c = 0; c < 5; ++c) out[r * 5 + c] /= std::sqrt(length);
  }
  return out;
}

/// Whatever the size of the gradient, the learning rate, weight decay and the clip norm.
TEST(AveragedParameter, moves_towards_the_direction_of_descent) {
  for (const Device device : test_devices())
    for (const DType dtype : {DType::float64, DType::float32})
      for (const double factor : {1.0, 1e-9}) {
        Parameters parameters(dtype, device);
        parameters.set_gradients(factor);
        const Array before = parameters.values(1);
        AdamW optimizer(parameters.store,
                        {.weight_decay = 0.5, .decayed = DecayedParameters::all, .clip_norm = 1e-3});
        parameters.step(optimizer);
        const Array after = parameters.values(1);
        EXPECT_EQ(difference(after.values, moved(before).values, tolerance(dtype)), "") << device << dtype;
        for (std::int64_t c = 10; c < 15; ++c) EXPECT_EQ(after[c], before[c]) << "a row without a gradient";
      }
}

/// The same update of the trained parameters as without the centroids, and the same norm.
TEST(AveragedParameter, takes_no_part_in_the_optimizer) {
  const OptimizerConfig config{.weight_decay = 0.1, .clip_norm = 0.5};
  Parameters with(DType::float64);
  AdamW optimizer(with.store, config);
  StepMemory state;
  ParameterStore store(1, state.step(), DType::float64);
  store.get("before", {4, 3}, normal(1));
  store.get("behind", {7}, normal(1));
  store.flatten();
  for (const Parameter& parameter : store.parameters())
    copy(tensor_of(normal_array(parameter.value.shape(), 530), DType::float64), gradient_of(parameter.value));
  AdamW plain(store, config);
  state.begin(0, 0.01, 0.9);
  *state.score() = {1, 0, 2};
  plain.step(state);
  EXPECT_EQ(with.step(optimizer).gradient_norm, state.read().gradient_norm);
  EXPECT_EQ(with.values(0).values, store.parameters()[0].master.to_vector<double>());
  EXPECT_EQ(with.values(2).values, store.parameters()[1].master.to_vector<double>());
  const std::vector<double> norms = optimizer.gradient_norms(optimizer.squares().to_vector<double>());
  ASSERT_EQ(norms.size(), 3u);
  EXPECT_EQ(norms[1], 0);
  EXPECT_GT(norms[2], 0);
}

TEST(AveragedParameter, stays_where_the_step_is_not_finite) {
  Parameters parameters(DType::float32);
  const Array before = parameters.values(1);
  AdamW optimizer(parameters.store, {});
  EXPECT_FALSE(parameters.step(optimizer, std::numeric_limits<double>::infinity()).is_finite);
  EXPECT_EQ(parameters.values(1).values, before.values);
}

}  // namespace
}  // namespace tern::test
