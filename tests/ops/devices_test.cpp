// Every op with several inputs refuses one that lies on another device before it reads any.
#include "support/devices.h"

#include <functional>

#include <gtest/gtest.h>

#include "support/array.h"
#include "support/thrown_error.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

struct Inputs {
  std::vector<Tensor> x;
  SequenceLayout layout;

  RowCoordinates rows(std::size_t first) const { return {x[first], x[first + 1]}; }
};
struct Call {
  std::string op;
  std::vector<Tensor> x;
  bool has_layout;
  std::function<void(const Inputs&)> run;
};

constexpr std::int64_t tokens = 4, heads = 2, width = 8;

Tensor numbers(const Shape& shape) { return full(shape, 0.5, DType::float32); }
Tensor integers(const Shape& shape) { return zeros(shape, DType::int32); }
SequenceLayout small_layout() { return make_layout({0, 3, 4}, {0, 1, 2, 0}, {5, 6}, 3); }

Tensor matrix() { return numbers({tokens, width}); }
Tensor row() { return numbers({width}); }
Tensor head_rows() { return numbers({tokens, heads, width}); }
Tensor landmark_scores() { return numbers({tokens, heads, 3}); }
Tensor squares() { return numbers({2, heads, 3, 3}); }
Tensor samples() { return zeros({tokens}, DType::int64); }
Tensor places() { return integers({tokens}); }

/// `more` after queries, keys and values.
std::vector<Tensor> attention_inputs(const std::vector<Tensor>& more = {}) {
  std::vector<Tensor> all(3, head_rows());
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

RandomStream stream_for(const Inputs& in) { return on(in.x[0], test_stream(1)); }

std::vector<Call> elementwise_calls() {
  const auto binary = [](const char* op, Tensor (*function)(const Tensor&, const Tensor&)) {
    return Call{op, {matrix(), row()}, false, [function](const Inputs& in) { function(in.x[0], in.x[1]); }};
  };
  return {binary("add", add),
          binary("subtract", subtract),
          binary("multiply", multiply),
          binary("divide", divide),
          {"concatenate", {matrix(), matrix()}, false, [](const Inputs& in) { concatenate(in.x, 0); }},
          {"with_auxiliary_loss", {matrix(), numbers({})}, false, [](const Inputs& in) {
             with_auxiliary_loss(in.x[0], in.x[1]);
           }}};
}

std::vector<Call> block_calls() {
  return {
      {"dropout",
       {matrix(), samples(), places()},
       false,
       [](const Inputs& in) {
         dropout(in.x[0], in.rows(1), {0.5, stream_for(in)});
       }},
      {"matmul", {matrix(), numbers({width, 3})}, false, [](const Inputs& in) { matmul(in.x[0], in.x[1]); }},
      {"linear",
       {matrix(), numbers({3, width}), numbers({3})},
       false,
       [](const Inputs& in) { linear(in.x[0], in.x[1], in.x[2]); }},
      {"feed_forward",
       {matrix(), numbers({6, width}), numbers({6}), numbers({width, 6}), row(), samples(), places()},
       false,
       [](const Inputs& in) {
         feed_forward(in.x[0], {in.x[1], in.x[2], in.x[3], in.x[4]}, in.rows(5), {0, stream_for(in)});
       }},
      {"layer_norm",
       {matrix(), row(), row()},
       false,
       [](const Inputs& in) { layer_norm(in.x[0], in.x[1], in.x[2]); }},
      {"residual_dropout_norm",
       {matrix(), matrix(), row(), row(), samples(), places()},
       false,
       [](const Inputs& in) {
         residual_dropout_norm(in.x[0], in.x[1], in.rows(4), {0, stream_for(in)}, in.x[2], in.x[3]);
       }},
      {"cross_entropy", {matrix(), places()}, false, [](const Inputs& in) { cross_entropy(in.x[0], in.x[1]); }},
      {"cross_entropy",
       {matrix(), places(), numbers({tokens})},
       false,
       [](const Inputs& in) { cross_entropy(in.x[0], in.x[1], in.x[2], nullptr); }},
      {"squared_error",
       {numbers({tokens}), numbers({tokens})},
       false,
       [](const Inputs& in) { squared_error(in.x[0], in.x[1]); }},
      {"iterated_inverse",
       {squares(), squares()},
       false,
       [](const Inputs& in) { iterated_inverse(in.x[0], in.x[1], 1); }},
  };
}

std::vector<Call> token_calls() {
  return {
      {"embedding",
       {places(), numbers({5, width})},
       false,
       [](const Inputs& in) { embedding(in.x[0], in.x[1]); }},
      {"token_embedding",
       {places(), numbers({5, width}), numbers({3, width})},
       true,
       [](const Inputs& in) {
         token_embedding(in.x[0], in.x[1], in.x[2], in.layout, {0, stream_for(in)}, DType::float32);
       }},
      {"position_rows",
       {numbers({3, width})},
       true,
       [](const Inputs& in) { position_rows(in.x[0], in.layout, DType::float32); }},
      {"sequence_mean", {matrix()}, true, [](const Inputs& in) { sequence_mean(in.x[0], in.layout); }},
      {"sequence_first", {matrix()}, true, [](const Inputs& in) { sequence_first(in.x[0], in.layout); }},
      {"depthwise_conv",
       {head_rows(), numbers({heads, 3})},
       true,
       [](const Inputs& in) { depthwise_conv(in.x[0], in.x[1], in.layout); }},
      {"grid_conv",
       {head_rows(), numbers({3, heads, 3, 3}), numbers({3})},
       true,
       [](const Inputs& in) { grid_conv(in.x[0], in.x[1], in.x[2], in.layout); }},
      {"rotary",
       {head_rows(), numbers({3, width})},
       true,
       [](const Inputs& in) { rotary(in.x[0], in.x[1], in.layout); }},
      {"mask_tokens",
       {places()},
       true,
       [](const Inputs& in) {
         mask_tokens(in.x[0], in.layout, {0.15, 0.8, 0.1, 0, 0, 3, stream_for(in)}, DType::float32);
       }},
  };
}

std::vector<Call> feature_calls() {
  const Tensor keys = numbers({2, heads, 3, width});
  return {
      {"outer_sums",
       {head_rows(), head_rows()},
       true,
       [](const Inputs& in) { outer_sums(in.x[0], in.x[1], in.layout); }},
      {"row_products",
       {head_rows(), numbers({2, heads, width, 3})},
       true,
       [](const Inputs& in) { row_products(in.x[0], in.x[1], in.layout); }},
      {"feature_attention", attention_inputs(), true,
       [](const Inputs& in) { feature_attention(in.x[0], in.x[1], in.x[2], in.layout, 0); }},
      {"linear_attention", attention_inputs(), true,
       [](const Inputs& in) { linear_attention(in.x[0], in.x[1], in.x[2], in.layout, 0); }},
      {"projected_attention",
       {head_rows(), keys, keys},
       true,
       [](const Inputs& in) { projected_attention(in.x[0], in.x[1], in.x[2], in.layout); }},
      {"positive_features",
       {head_rows(), numbers({6, width})},
       true,
       [](const Inputs& in) { positive_features(in.x[0], in.x[1], in.layout, {}); }},
      {"segment_means", {head_rows()}, true, [](const Inputs& in) { segment_means(in.x[0], in.layout, 2); }},
      {"softmax_over_landmarks",
       {landmark_scores()},
       true,
       [](const Inputs& in) { softmax_over_landmarks(in.x[0], in.layout); }},
      {"softmax_between_landmarks",
       {squares()},
       true,
       [](const Inputs& in) { softmax_between_landmarks(in.x[0], in.layout); }},
      {"softmax_over_tokens",
       {landmark_scores()},
       true,
       [](const Inputs& in) { softmax_over_tokens(in.x[0], in.layout); }},
      {"select_segments",
       {landmark_scores()},
       true,
       [](const Inputs& in) { select_segments(in.x[0], in.layout, 2); }},
      {"selected_attention", attention_inputs({integers({heads, 1, tokens})}), true,
       [](const Inputs& in) {
         selected_attention(in.x[0], in.x[1], in.x[2], in.layout, {in.x[3], 3, 2}, 1);
       }},
  };
}

std::vector<Call> attention_calls() {
  const SortedTokens sorted = sort_tokens(integers({heads, 1, tokens}), 1, small_layout(), {});
  const Tensor scores = numbers({heads, 3, tokens});
  return {
      {"softmax_attention", attention_inputs(), true,
       [](const Inputs& in) {
         softmax_attention(in.x[0], in.x[1], in.x[2], in.layout, 1, {0, stream_for(in)});
       }},
      {"sparse_attention", attention_inputs(), true,
       [](const Inputs& in) { sparse_attention(in.x[0], in.x[1], in.x[2], in.layout, {.window = 1}, 1); }},
      {"bernoulli_expectation", attention_inputs(), true,
       [](const Inputs& in) {
         bernoulli_expectation(in.x[0], in.x[1], in.x[2], in.layout, 4, BernoulliGradient::exact);
       }},
      {"hash_codes",
       {head_rows()},
       true,
       [](const Inputs& in) { hash_codes(in.x[0], in.layout, {}, stream_for(in)); }},
      {"bernoulli_sample", attention_inputs(), true,
       [](const Inputs& in) {
         bernoulli_sample(in.x[0], in.x[1], in.x[2], in.layout, {}, BernoulliGradient::exact, stream_for(in));
       }},
      {"rotation_codes",
       {head_rows()},
       true,
       [](const Inputs& in) { rotation_codes(in.x[0], in.layout, {}, stream_for(in)); }},
      {"sort_tokens",
       {integers({heads, 1, tokens})},
       true,
       [](const Inputs& in) { sort_tokens(in.x[0], 1, in.layout, {}); }},
      {"sorted_attention", attention_inputs({sorted.order, sorted.segment, sorted.order, sorted.segment}), true,
       [](const Inputs& in) {
         sorted_attention(in.x[0], in.x[1], in.x[2], in.layout, {in.x[3], in.x[4]}, {in.x[5], in.x[6]}, {});
       }},
      {"cluster_attention", attention_inputs({scores, scores}), true,
       [](const Inputs& in) {
         cluster_attention(in.x[0], in.x[1], in.x[2], in.layout, {in.x[3], in.x[4]}, {});
       }},
  };
}

/// On `device` with other values: a check must come before anything is read. Nothing is copied, because between
/// two indices of the CPU nothing can be.
Tensor elsewhere(const Tensor& x, Device device) { return zeros(x.shape(), x.dtype(), device); }
SequenceLayout elsewhere(const SequenceLayout& layout, Device device) {
  SequenceLayout out = layout;
  for (Tensor* array : {&out.offsets, &out.position, &out.sample, &out.order, &out.token_sample})
    *array = elsewhere(*array, device);
  return out;
}

void expect_refusal(const Call& call, const Inputs& in, const std::string& moved) {
  try {
    call.run(in);
    ADD_FAILURE() << call.op << " takes its " << moved << " from another device";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::failed) << call.op << ", " << moved;
    EXPECT_TRUE(mentions(error, call.op + ": all inputs must lie on one device"))
        << call.op << ", " << moved << ": " << error.what();
  }
}

/// Every op on `home`, and with each of its inputs in turn on `abroad`.
void check_all(Device home, Device abroad) {
  const Tensor like = zeros({}, DType::float32, home);
  for (const auto& calls :
       {elementwise_calls(), block_calls(), token_calls(), feature_calls(), attention_calls()})
    for (const Call& call : calls) {
      Inputs in{{}, on(like, small_layout())};
      for (const Tensor& x : call.x) in.x.push_back(on(like, x));
      EXPECT_NO_THROW(call.run(in)) << call.op;
      for (std::size_t i = 0; i < in.x.size(); ++i) {
        Inputs mixed = in;
        mixed.x[i] = elsewhere(in.x[i], abroad);
        expect_refusal(call, mixed, format_text("input {}", i));
      }
      if (call.has_layout) expect_refusal(call, {in.x, elsewhere(in.layout, abroad)}, "layout");
    }
  synchronize(home);
}

/// The CPU's memory under an index of its own counts as another device, so that this needs no GPU.
constexpr Device cpu{}, other_cpu{DeviceType::cpu, 1}, cuda{DeviceType::cuda, 0};

TEST(OneDevice, is_required_by_every_op) { check_all(cpu, other_cpu); }

TEST(OneDevice, is_required_by_every_op_with_a_gpu) {
  if (cuda_devices() == 0) GTEST_SKIP() << cuda_description();
  check_all(cpu, cuda);
  check_all(cuda, cpu);
}

TEST(OneDevice, is_any_for_absent_inputs) {
  const auto there = [](const Shape& shape) { return full(shape, 0.5, DType::float32, other_cpu); };
  EXPECT_EQ(linear(there({2, 3}), there({4, 3}), {}).device(), other_cpu);
}

TEST(OneDevice, is_named_with_the_inputs) {
  const Error error = thrown_error([] { matmul(matrix(), elsewhere(numbers({width, 3}), other_cpu)); });
  EXPECT_TRUE(mentions(error, "got a on cpu and b on cpu; copy one to the other's device")) << error.what();
}

}  // namespace
}  // namespace tern::test
