#include "tern/module.h"

#include <cmath>

#include <gtest/gtest.h>

#include "support/thrown_error.h"
#include "tern/layers.h"

namespace tern::test {
namespace {

constexpr std::uint32_t step = 0;
using Floats = std::vector<float>;

TEST(ParameterStore, asking_again_shares_a_parameter) {
  ParameterStore store(1, &step);
  Parameter& a = store.get("layer.weight", {2, 3}, normal(1));
  EXPECT_EQ(&store.get("layer.weight", {2, 3}, constant(5)), &a);
  EXPECT_EQ(store.count(), 6);
  EXPECT_EQ(thrown_error([&] { store.get("layer.weight", {3, 2}, normal(1)); }).code(), ExitCode::internal);
}

TEST(ParameterStore, initial_values_depend_on_seed_and_path_only) {
  ParameterStore first(1, &step), second(1, &step), other(2, &step);
  first.get("x", {4}, normal(1));
  const auto a = first.get("y", {4}, normal(1)).value.to_vector<float>();
  EXPECT_EQ(second.get("y", {4}, normal(1)).value.to_vector<float>(), a);
  EXPECT_NE(second.get("z", {4}, normal(1)).value.to_vector<float>(), a);
  EXPECT_NE(other.get("y", {4}, normal(1)).value.to_vector<float>(), a);
  ParameterStore doubles(1, &step, DType::float64);
  EXPECT_EQ(doubles.get("y", {4}, normal(1)).value.to_vector<float>(), a);
}

TEST(Initializer, laws_have_their_scale) {
  ParameterStore store(3, &step);
  const std::int64_t count = 1 << 16;
  double square = 0, largest = 0, mean = 0;
  for (const float x : store.get("normal", {count}, normal(0.02)).value.to_vector<float>())
    square += double(x) * x;
  EXPECT_NEAR(std::sqrt(square / count), 0.02, 5 * 0.02 / std::sqrt(2.0 * count));
  for (const float x : store.get("uniform", {count}, uniform(0.25)).value.to_vector<float>()) {
    largest = std::max(largest, std::abs(double(x)));
    mean += x / count;
  }
  EXPECT_LE(largest, 0.25);
  EXPECT_GT(largest, 0.2499);
  EXPECT_NEAR(mean, 0, 5 * 0.25 / std::sqrt(3.0 * count));
  EXPECT_EQ(store.get("constant", {3}, constant(7)).value.to_vector<float>(), (Floats{7, 7, 7}));
}

TEST(ParameterStore, flatten_keeps_values_and_joins_gradients) {
  ParameterStore store(1, &step);
  store.get("a", {2}, constant(1));
  store.get("b", {1, 3}, constant(2));
  store.get("c", {}, constant(3));
  store.flatten();
  const auto flat = [](float c, float b, float a0, float a1) {  // each begins at a multiple of 64
    Floats out(192, 0);
    out[0] = c;
    std::fill_n(out.begin() + 64, 3, b);
    out[128] = a0;
    out[129] = a1;
    return out;
  };
  EXPECT_EQ(store.values().to_vector<float>(), flat(3, 2, 1, 1));
  EXPECT_EQ(store.gradients().to_vector<float>(), Floats(192, 0));
  for (const Parameter& parameter : store.parameters()) {
    EXPECT_TRUE(parameter.value.shares_storage_with(store.values()));
    EXPECT_TRUE(parameter.value.is_contiguous());
    backward(affine(parameter.value, 10));
  }
  EXPECT_EQ(store.parameters()[1].value.shape(), (Shape{1, 3}));
  backward(affine(store.parameters()[0].value, 1));
  EXPECT_EQ(store.gradients().to_vector<float>(), flat(10, 10, 11, 11));
  store.values().data<float>()[0] = -1;
  EXPECT_EQ(store.parameters()[2].value.item(), -1);
  EXPECT_EQ(thrown_error([&] { store.get("d", {1}, constant(0)); }).code(), ExitCode::internal);
  EXPECT_EQ(thrown_error([&] { store.flatten(); }).code(), ExitCode::internal);
}

TEST(ParameterStore, leaves_are_chosen_by_prefix) {
  ParameterStore store(1, &step);
  for (const char* path : {"encoder.layers.1.a", "encoder.layers.10.a", "encoder.layers.1.b", "head.a"})
    store.get(path, {1}, constant(0));
  EXPECT_EQ(store.leaves("encoder.layers.1.").size(), 2);
  EXPECT_EQ(store.leaves("").size(), 4);
  EXPECT_TRUE(store.leaves("none").empty());
}

TEST(Scope, joins_names_to_paths) {
  ParameterStore store(1, &step);
  const Scope root(store), layer = root.child("layers").child("0");
  EXPECT_EQ(root.path(), "");
  EXPECT_EQ(layer.path(), "layers.0");
  EXPECT_EQ(layer.parameter("weight", {1}, constant(0)).path, "layers.0.weight");
  EXPECT_EQ(layer.stream("dropout").key.low, store.stream("layers.0.dropout").key.low);
  EXPECT_EQ(layer.stream("dropout").step, &step);
}

TEST(Scope, shared_weights_keep_streams_of_their_own) {
  ParameterStore store(1, &step);
  const Scope first = Scope(store).child("0"), second = Scope(store).child("1");
  const Scope again = first.with_streams_of(second).child("attention");
  EXPECT_EQ(&again.parameter("weight", {2}, constant(0)),
            &first.child("attention").parameter("weight", {2}, constant(0)));
  EXPECT_EQ(again.stream("dropout").key.low, store.stream("1.attention.dropout").key.low);
  EXPECT_EQ(store.count(), 2);
}

TEST(Layers, start_as_published) {
  ParameterStore store(5, &step);
  const Scope root(store);
  const Linear linear(root.child("linear"), 64, 32);
  const Embedding table(root.child("embedding"), 500, 64);
  const LayerNorm layer_norm(root.child("norm"), 8);
  const auto largest = [&](const std::string& path, const Shape& shape) {
    double out = 0;
    for (const float x : store.get(path, shape, constant(0)).value.to_vector<float>())
      out = std::max(out, std::abs(double(x)));
    return out;
  };
  EXPECT_NEAR(largest("linear.weight", {32, 64}), 1 / 8.0, 1e-3);
  EXPECT_NEAR(largest("linear.bias", {32}), 1 / 8.0, 2e-2);
  EXPECT_LE(largest("linear.bias", {32}), 1 / 8.0);
  EXPECT_NEAR(largest("embedding.weight", {500, 64}), 0.02 * 4.2, 0.02);
  EXPECT_EQ(store.get("norm.weight", {8}, constant(0)).value.to_vector<float>(), Floats(8, 1));
  EXPECT_EQ(store.get("norm.bias", {8}, constant(0)).value.to_vector<float>(), Floats(8, 0));
}

TEST(Layers, dropout_acts_in_training_only) {
  ParameterStore store(5, &step);
  const Dropout dropout(Scope(store).child("site"), 0.5);
  EXPECT_EQ(dropout.options(false).rate, 0);
  EXPECT_EQ(dropout.options(true).rate, 0.5);
  EXPECT_EQ(dropout.options(true).stream.key.low, store.stream("site.dropout").key.low);
}

}  // namespace
}  // namespace tern::test
