#include "tern/autograd.h"

#include <thread>

#include <gtest/gtest.h>

#include "support/array.h"
#include "support/thrown_error.h"
#include "tern/memory.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

using Doubles = std::vector<double>;

Tensor vector_leaf(const Doubles& values) {
  return leaf(from_vector(values, {static_cast<std::int64_t>(values.size())}));
}
Doubles gradient(const Tensor& x) { return gradient_of(x).to_vector<double>(); }

TEST(Autograd, several_outputs_and_undefined_gradients_of_unused_ones) {
  const Tensor x = vector_leaf({1, 2});
  std::vector<bool> used;
  const auto outputs = record("pair", {affine(x.detach(), 2), affine(x.detach(), 3)}, std::span(&x, 1),
                              [&](std::span<const Tensor> dy, GradientSink& sink) {
                                used = {dy[0].defined(), dy[1].defined()};
                                if (dy[0].defined()) sink.add(0, affine(dy[0], 2));
                                if (dy[1].defined()) sink.add(0, affine(dy[1], 3));
                              });
  backward(sum(outputs[1]));
  EXPECT_EQ(used, (std::vector<bool>{false, true}));
  EXPECT_EQ(gradient(x), (Doubles{3, 3}));
  backward(sum(multiply(outputs[0], outputs[1])));
  EXPECT_EQ(used, (std::vector<bool>{true, true}));
  EXPECT_EQ(gradient(x), (Doubles{3 + 12, 3 + 24}));
}

TEST(Autograd, leaves_accumulate_over_backward_passes) {
  const Tensor x = vector_leaf({1, 2, 3}), y = square(x);
  for (int pass = 1; pass <= 3; ++pass) {
    backward(y);
    EXPECT_EQ(gradient(x), (Doubles{2.0 * pass, 4.0 * pass, 6.0 * pass}));
  }
  const Tensor block = full({2}, 10, DType::float64), z = leaf(from_vector(Doubles{1, 1}, {2}), block);
  backward(affine(z, 5));
  EXPECT_EQ(block.to_vector<double>(), (Doubles{15, 15}));
}

/// The closure passes its own dy to two inputs; adding to one of them must not change the other.
TEST(Autograd, aliasing_gradients_are_copied_before_they_are_added_to) {
  const Tensor x = vector_leaf({1, 1}), a = affine(x, 1), b = affine(x, 100);
  const Tensor both =
      record("fork", add(a.detach(), b.detach()), {a, b}, [](const Tensor& dy, GradientSink& sink) {
        sink.add(0, dy);
        sink.add(1, dy);
      });
  backward(add(both, affine(a, 5)));
  EXPECT_EQ(gradient(x), (Doubles{106, 106}));
}

TEST(Autograd, a_seed_is_never_written_to) {
  const Tensor x = vector_leaf({1, 1}), y = affine(x, 1), z = affine(y, 2);
  const std::vector<Tensor> roots{y, z}, seeds{full({2}, 1, DType::float64), full({2}, 1, DType::float64)};
  backward(roots, seeds);
  EXPECT_EQ(gradient(x), (Doubles{3, 3}));
  EXPECT_EQ(seeds[0].to_vector<double>(), (Doubles{1, 1}));
}

TEST(Autograd, write_accumulates_into_what_is_there) {
  const Tensor w = leaf(full({2, 2}, 1, DType::float64)), x = leaf(full({2, 2}, 2, DType::float64)),
               h = affine(x, 1);
  backward(add(matmul(h, w), matmul(h, w, {.transpose_b = true})));
  EXPECT_EQ(gradient(w), Doubles(4, 8));
  EXPECT_EQ(gradient(x), Doubles(4, 4));
}

TEST(Autograd, nothing_is_recorded_without_need) {
  const Tensor constant = full({2}, 1, DType::float64), x = vector_leaf({1, 1});
  EXPECT_FALSE(exp(constant).requires_gradient());
  EXPECT_TRUE(exp(x).requires_gradient());
  EXPECT_FALSE(exp(x.detach()).requires_gradient());
  {
    const NoGradientScope scope;
    EXPECT_FALSE(is_recording());
    EXPECT_FALSE(exp(x).requires_gradient());
    { const NoGradientScope inner; }
    EXPECT_FALSE(is_recording());
    std::thread([] { EXPECT_TRUE(is_recording()); }).join();
  }
  EXPECT_TRUE(is_recording());
}

TEST(Autograd, closures_may_call_backward) {
  const Tensor x = vector_leaf({2, 3});
  const Tensor y = record("cube", multiply(square(x.detach()), x.detach()), {x},
                          [at = x.detach()](const Tensor& dy, GradientSink& sink) {
                            EXPECT_FALSE(is_recording());
                            sink.add(0, multiply(dy, affine(square(at), 3)));
                          });
  const std::vector<Tensor> inputs{y};
  const Tensor z =
      checkpoint([](std::span<const Tensor> in) { return std::vector{square(in[0])}; }, inputs, {})[0];
  backward(z);
  EXPECT_EQ(gradient(x), (Doubles{6 * 32, 6 * 243}));
}

TEST(Autograd, a_long_chain_needs_no_deep_stack) {
  const Tensor x = vector_leaf({1});
  const std::int64_t before = memory_statistics().live_tensors;
  {
    Tensor y = x;
    for (int i = 0; i < 100000; ++i) y = affine(y, 1, 1);
    backward(y);
    EXPECT_EQ(y.item(), 100001);
  }
  EXPECT_EQ(gradient(x), (Doubles{1}));
  EXPECT_EQ(memory_statistics().live_tensors, before);
}

TEST(Autograd, wrong_gradients_are_named) {
  const auto error = [](const Tensor& wrong) {
    const Tensor x = vector_leaf({1, 2});
    const Tensor y = record("faulty", affine(x.detach(), 1), {affine(x, 1)},
                            [wrong](const Tensor&, GradientSink& sink) { sink.add(0, wrong); });
    return thrown_error([&] { backward(y); });
  };
  EXPECT_TRUE(mentions(error(zeros({3}, DType::float64)),
                       "faulty: the gradient of input 0 must be float64 [2], got float64 [3]"));
  EXPECT_TRUE(mentions(error(zeros({2}, DType::float32)), "got float32 [2]"));
  EXPECT_TRUE(mentions(error(Tensor()), "faulty: the gradient of input 0 is undefined"));
  EXPECT_TRUE(mentions(error(Tensor()), "in backward of faulty"));
  EXPECT_EQ(error(Tensor()).code(), ExitCode::internal);
  const Tensor x = vector_leaf({1});
  const Tensor y = record("overfull", affine(x.detach(), 1), {x},
                          [](const Tensor& dy, GradientSink& sink) { sink.add(1, dy); });
  EXPECT_TRUE(mentions(thrown_error([&] { backward(y); }), "overfull: has no input 1"));
}

TEST(Autograd, wrong_roots_and_seeds_are_named) {
  const Tensor x = vector_leaf({1, 2}), y = exp(x), one = full({2}, 1, DType::float64);
  const auto error = [](std::vector<Tensor> roots, std::vector<Tensor> seeds) {
    return thrown_error([&] { backward(roots, seeds); });
  };
  EXPECT_TRUE(
      mentions(error({y}, {zeros({3}, DType::float64)}), "the seed must have the root's shape [2], got [3]"));
  EXPECT_TRUE(mentions(error({y}, {}), "1 roots need as many seeds, got 0"));
  EXPECT_TRUE(mentions(error({y, y}, {one, one}), "given twice"));
  EXPECT_TRUE(mentions(error({one}, {one}), "does not depend on any parameter"));
  EXPECT_TRUE(mentions(error({x}, {one}), "is itself a leaf"));
  EXPECT_TRUE(mentions(thrown_error([&] { gradient_of(y); }), "is not a leaf"));
  EXPECT_TRUE(mentions(thrown_error([&] { leaf(one, zeros({3}, DType::float64)); }),
                       "leaf: the gradient must be contiguous"));
  EXPECT_EQ(gradient(x), (Doubles{0, 0}));
}

TEST(Autograd, a_root_without_seed_is_left_out) {
  const Tensor x = vector_leaf({1}), y = vector_leaf({1});
  const std::vector<Tensor> roots{affine(x, 2), affine(y, 3)}, seeds{Tensor(), full({1}, 1, DType::float64)};
  backward(roots, seeds);
  EXPECT_EQ(gradient(x), (Doubles{0}));
  EXPECT_EQ(gradient(y), (Doubles{3}));
}

/// Names of the leaves in the order in which they become ready, with their gradients at that time.
struct Ready {
  std::vector<std::pair<std::string, Tensor>> leaves;
  std::vector<std::string> order{};
  std::vector<Doubles> seen{};
  GradientReady callback() {
    return [this](const Tensor& block) {
      for (const auto& [name, x] : leaves)
        if (gradient_of(x).shares_storage_with(block)) order.push_back(name), seen.push_back(gradient(x));
    };
  }
};

TEST(GradientReady, fires_once_for_each_leaf_after_its_last_use) {
  const Tensor a = vector_leaf({2}), b = vector_leaf({3}), c = vector_leaf({5}), unused = vector_leaf({7});
  Ready ready{.leaves = {{"a", a}, {"b", b}, {"c", c}, {"unused", unused}}};
  Tensor x = multiply(full({1}, 1, DType::float64), a);
  x = multiply(x, b);
  x = multiply(x, c);
  backward(x, ready.callback());
  EXPECT_EQ(ready.order, (std::vector<std::string>{"c", "b", "a"}));
  EXPECT_EQ(ready.seen, (std::vector<Doubles>{{6}, {10}, {15}}));
}

TEST(GradientReady, waits_for_all_uses_of_a_tied_leaf) {
  const Tensor tied = vector_leaf({2}), middle = vector_leaf({3});
  Ready ready{.leaves = {{"tied", tied}, {"middle", middle}}};
  backward(multiply(multiply(multiply(tied, tied), middle), tied), ready.callback());
  EXPECT_EQ(ready.order, (std::vector<std::string>{"middle", "tied"}));
  EXPECT_EQ(ready.seen, (std::vector<Doubles>{{8}, {36}}));
}

TEST(GradientReady, waits_for_uses_inside_checkpoints) {
  const Tensor first = vector_leaf({2}), shared = vector_leaf({3}), last = vector_leaf({5});
  Ready ready{.leaves = {{"first", first}, {"shared", shared}, {"last", last}}};
  const Function block = [&](std::span<const Tensor> in) { return std::vector{multiply(in[0], shared)}; };
  const std::vector<Tensor> parameters{shared};
  Tensor x = multiply(full({1}, 1, DType::float64), first);
  for (int layer = 0; layer < 2; ++layer) x = checkpoint(block, std::vector{x}, parameters)[0];
  backward(multiply(x, last), ready.callback());
  EXPECT_EQ(ready.order, (std::vector<std::string>{"last", "shared", "first"}));
  EXPECT_EQ(ready.seen, (std::vector<Doubles>{{18}, {2 * 2 * 3 * 5}, {45}}));
}

TEST(GradientReady, fires_for_a_leaf_whose_uses_get_no_gradient) {
  const Tensor a = vector_leaf({2}), b = vector_leaf({3});
  Ready ready{.leaves = {{"a", a}, {"b", b}}};
  const Tensor blocked = record("blocked", a.detach(), {affine(a, 1)}, [](const Tensor&, GradientSink&) {});
  backward(multiply(blocked, b), ready.callback());
  EXPECT_EQ(ready.order, (std::vector<std::string>{"b", "a"}));
  EXPECT_EQ(ready.seen, (std::vector<Doubles>{{2}, {0}}));
}

/// Two outputs, a leaf used twice and an input that needs no gradient.
std::vector<Tensor> block(std::span<const Tensor> in, const Tensor& w) {
  const Tensor h = tanh(matmul(in[0], w));
  return {add(matmul(h, w), in[1]), gelu(h)};
}

TEST(Checkpoint, gives_the_bits_of_the_plain_function) {
  std::vector<std::vector<Doubles>> results;
  for (const bool is_checkpointed : {false, true}) {
    const Tensor x = leaf(tensor_of(normal_array({5, 4}, 1), DType::float64)),
                 w = leaf(tensor_of(normal_array({4, 4}, 2), DType::float64)),
                 constant = tensor_of(normal_array({5, 4}, 3), DType::float64);
    std::vector<Tensor> in{affine(x, 2), constant};
    for (int layer = 0; layer < 3; ++layer) {
      const Function f = [&](std::span<const Tensor> inputs) { return block(inputs, w); };
      in = is_checkpointed ? checkpoint(f, in, std::vector{w}) : f(in);
    }
    backward(add(sum(in[0]), sum(square(in[1]))));
    results.push_back({in[0].to_vector<double>(), in[1].to_vector<double>(), gradient(x), gradient(w)});
  }
  EXPECT_EQ(results[0], results[1]);
}

TEST(Checkpoint, may_be_nested_and_keeps_less_alive) {
  const auto live_after_forward = [](bool is_checkpointed) {
    const Tensor w = leaf(tensor_of(normal_array({4, 4}, 2), DType::float64));
    const Tensor x = leaf(tensor_of(normal_array({5, 4}, 1), DType::float64));
    const Function inner = [&](std::span<const Tensor> in) {
      Tensor y = in[0];
      for (int i = 0; i < 8; ++i) y = tanh(matmul(y, w));
      return std::vector{y};
    };
    const Function outer = [&](std::span<const Tensor> in) { return checkpoint(inner, in, std::vector{w}); };
    const std::int64_t before = memory_statistics().live_tensors;
    const std::vector<Tensor> in{x}, out = is_checkpointed ? checkpoint(outer, in, std::vector{w}) : inner(in);
    const std::int64_t live = memory_statistics().live_tensors - before;
    backward(sum(out[0]));
    return std::pair{live, gradient(w)};
  };
  const auto [plain, plain_gradient] = live_after_forward(false);
  const auto [saved, saved_gradient] = live_after_forward(true);
  EXPECT_EQ(saved, 1);
  EXPECT_GE(plain, 16);
  EXPECT_EQ(saved_gradient, plain_gradient);
}

TEST(Checkpoint, may_return_inputs_and_one_tensor_twice) {
  const Tensor x = vector_leaf({1, 2}), y = vector_leaf({3, 4});
  const Function f = [](std::span<const Tensor> in) {
    const Tensor product = multiply(in[0], in[1]);
    return std::vector{in[0], product, product, in[0]};
  };
  const std::vector<Tensor> in{x, y}, out = checkpoint(f, in, {});
  backward(add(add(affine(out[0], 5), affine(out[1], 7)), add(affine(out[2], 11), affine(out[3], 13))));
  EXPECT_EQ(gradient(x), (Doubles{18 + 18 * 3, 18 + 18 * 4}));
  EXPECT_EQ(gradient(y), (Doubles{18, 36}));
}

TEST(Checkpoint, a_pass_frees_all_it_made) {
  const Tensor x = vector_leaf({1, 2});
  const std::int64_t before = memory_statistics().live_tensors;
  {
    const std::vector<Tensor> in{x};
    const Function f = [](std::span<const Tensor> inputs) {
      return std::vector{exp(inputs[0]), square(inputs[0])};
    };
    backward(sum(checkpoint(f, in, {})[1]));
  }
  EXPECT_EQ(memory_statistics().live_tensors, before);
  EXPECT_EQ(gradient(x), (Doubles{2, 4}));
}

}  // namespace
}  // namespace tern::test
