// Every registered kind on CUDA against the same kind on the CPU in float64.
#include <gtest/gtest.h>

#include "support/attention_contract.h"
#include "support/tolerance.h"
#include "tern/memory.h"

namespace tern::test {
namespace {

constexpr Device cuda{DeviceType::cuda, 0};

/// Settings that give the derivative something smooth to agree on: codes of rounded rows differ from those of
/// the rows, so the sampled form is compared in float32 and float64 only (its own formula:
/// ops/bernoulli_sample_test.cpp).
std::vector<Variant> variants() {
  std::vector<Variant> out{
      {"softmax", {"dropout=0"}},
      {"softmax", {"dropout=0.3"}},
      {"softmax", {"dropout=0.7"}},
      {"yoso", {"bits=6", "form=expectation"}},
      {"yoso", {"bits=11", "form=expectation", "conv_window=5"}},
      {"yoso", {"bits=6", "form=expectation", "gradient=exact"}},
      {"yoso", {"bits=5", "hashes=6"}},
      {"yoso", {"bits=5", "hashes=6", "gradient=exact", "conv_window=3"}},
      {"yoso", {"bits=5", "hashes=6", "hash=interleaved"}},
      {"yoso", {"bits=5", "hashes=6", "hash=hadamard"}},
      {"reformer", {"block=16", "rounds=3"}},
      {"reformer", {"block=16", "published=true"}},
      {"hyper", {"block=16", "samples=20"}},
      {"routing", {"clusters=5", "window=30", "routed_heads=2"}},
      {"routing", {"clusters=3", "published=true"}},
      {"linear", {"published=true"}},
      {"longformer", {"window=6", "global_tokens=2"}},
      {"block_sparse", {"block=8", "global_blocks=0", "random_blocks=2", "butterfly=true"}},
      {"performer", {"kernel=relu"}},
      {"nystrom", {"landmarks=8", "conv_window=5"}},
      {"nystrom", {"landmarks=9", "conv_window=0", "published=true"}},
      {"linformer", {"projected_length=24", "shared_key_value=true"}},
      {"lightning", {"published=true"}},
      {"sea", {"segments=16", "keys=600"}}};
  for (const AttentionKind& kind : attention_kinds())
    if (kind.name != "softmax" && kind.name != "yoso") out.push_back({std::string(kind.name), {}});
  return out;
}

class OnCuda : public testing::TestWithParam<Variant> {
 protected:
  void SetUp() override {
    if (cuda_devices() == 0) GTEST_SKIP() << cuda_description();
    set_cuda_options({.deterministic = true});
  }
  void TearDown() override { set_cuda_options({}); }
  /// Whether keys are chosen by weights that rounding can bring to another order.
  bool chooses_keys() const { return GetParam().kind == "sea" && GetParam().settings.empty(); }
  bool is_sampled() const {
    for (const std::string& setting : GetParam().settings)
      if (setting == "form=expectation") return false;
    return GetParam().kind == "yoso";
  }
  std::vector<Array> run(DType dtype, const SequenceLayout& layout, const AttentionShape& shape,
                         Device device = cuda) const {
    const Mechanism mechanism(GetParam(), shape, dtype, device);
    const std::vector<Tensor> rows = random_rows(layout, shape, dtype, device);
    return values_and_gradients(mechanism, rows, on(rows[0], layout));
  }
  /// The CPU's results in float64 for the rows that `dtype` holds.
  std::vector<Array> expected(DType dtype, const SequenceLayout& layout, const AttentionShape& shape) const {
    std::vector<Tensor> rows;
    for (const Tensor& x : random_rows(layout, shape, dtype))
      rows.push_back(tensor_of(array_of(x), DType::float64));
    return values_and_gradients(Mechanism(GetParam(), shape), rows, layout);
  }
};

TEST_P(OnCuda, equals_the_cpu) {
  for (const std::int64_t width : {12, 32, 64, 128})
    for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16}) {
      if (dtype == DType::bfloat16 && is_sampled()) continue;
      if (dtype != DType::float64 && chooses_keys()) continue;
      const AttentionShape shape{.heads = 2, .head_width = width, .max_length = 300};
      const SequenceLayout layout = layout_of({63, 1, 0, 200, 16, 65}, 300);
      const std::vector<Array> actual = run(dtype, layout, shape), wanted = expected(dtype, layout, shape);
      for (std::size_t i = 0; i < wanted.size(); ++i)
        EXPECT_EQ(difference(actual[i].values, wanted[i].values, 4 * tolerance(dtype, 200)), "")
            << "width " << width << ", " << dtype << ", array " << i;
    }
}

TEST_P(OnCuda, deterministic_mode_repeats_bits) {
  const AttentionShape shape{.heads = 2, .head_width = 32, .max_length = 600};
  const SequenceLayout layout = layout_of({600, 70, 129}, 600);
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    const std::vector<Array> first = run(dtype, layout, shape);
    for (int i = 0; i < 3; ++i) {
      const std::vector<Array> again = run(dtype, layout, shape);
      for (std::size_t j = 0; j < first.size(); ++j) EXPECT_EQ(again[j].values, first[j].values) << j;
    }
  }
}

TEST_P(OnCuda, the_fast_mode_agrees_with_the_deterministic_one) {
  if (chooses_keys()) return;
  const AttentionShape shape{.heads = 2, .head_width = 32, .max_length = 600};
  const SequenceLayout layout = layout_of({600, 70, 129}, 600);
  const std::vector<Array> fixed = run(DType::bfloat16, layout, shape);
  set_cuda_options({});
  const std::vector<Array> fast = run(DType::bfloat16, layout, shape);
  for (std::size_t j = 0; j < fixed.size(); ++j)
    EXPECT_EQ(difference(fast[j].values, fixed[j].values, tolerance(DType::bfloat16)), "") << j;
}

/// Rows beyond the last sequence get zeros and zero gradients, and change nothing else.
TEST_P(OnCuda, unused_capacity_is_zero) {
  if (GetParam().kind == "none") return;
  const AttentionShape shape{.heads = 2, .head_width = 32, .max_length = 100};
  const std::vector<std::int32_t> offsets{0, 40, 70};
  std::vector<std::int32_t> position;
  for (int i = 0; i < 70; ++i) position.push_back(i < 40 ? i : i - 40);
  const SequenceLayout exact = make_layout(offsets, position, {40, 41}, 100),
                       roomy = make_layout(arrange_sequences(offsets, position, {40, 41}, 100, 128));
  const std::vector<Tensor> rows = random_rows(exact, shape, DType::float32, cuda);
  std::vector<Tensor> padded;
  for (const Tensor& x : rows) {
    padded.push_back(full({128, 2, 32}, 0.5, DType::float32, cuda));
    copy(x, padded.back().narrowed(0, 0, 70));
  }
  const Mechanism mechanism(GetParam(), shape, DType::float32, cuda);
  std::vector<Tensor> leaves;
  for (const Tensor& x : padded) leaves.push_back(leaf(x));
  const Tensor y = mechanism.function(on(rows[0], roomy))(leaves)[0],
               plain = mechanism(rows, on(rows[0], exact));
  // a mechanism with layers of its own has products whose order may follow the number of rows
  const double allowed = GetParam().kind == "sea" ? tolerance(DType::float32, 64) : 0;
  EXPECT_EQ(difference(array_of(y.narrowed(0, 0, 70)).values, array_of(plain).values, allowed), "");
  EXPECT_EQ(y.narrowed(0, 70, 58).to_vector<float>(), std::vector<float>(58 * 64, 0));
  const Tensor seed = zeros(y.shape(), y.dtype(), cuda);
  copy(full({70, 2, 32}, 1, DType::float32, cuda), seed.narrowed(0, 0, 70));
  backward(std::span(&y, 1), std::span(&seed, 1));
  for (const Tensor& x : leaves)
    EXPECT_EQ(gradient_of(x).narrowed(0, 70, 58).to_vector<float>(), std::vector<float>(58 * 64, 0));
}

/// Four times the length: at most four times the memory of tensors.
TEST_P(OnCuda, memory_grows_in_proportion_to_the_length) {
  const AttentionShape shape{.heads = 2, .head_width = 32, .max_length = 4096};
  const auto peak = [&](int length) {
    const SequenceLayout layout = layout_of({length}, length);
    const Mechanism mechanism(GetParam(), shape, DType::bfloat16, cuda);
    const std::vector<Tensor> rows = random_rows(layout, shape, DType::bfloat16, cuda);
    const std::vector<Tensor> leaves{leaf(rows[0]), leaf(rows[1]), leaf(rows[2])};
    reset_peak_memory();
    const std::int64_t start = memory_statistics().live_bytes;
    backward(mechanism.function(on(rows[0], layout))(leaves)[0]);
    return static_cast<double>(memory_statistics().peak_bytes - start);
  };
  const double base = peak(1024);
  EXPECT_GT(base, 0);
  EXPECT_LT(peak(4096), 4.5 * base);
}

INSTANTIATE_TEST_SUITE_P(Kinds, OnCuda, testing::ValuesIn(variants()),
                         [](const auto& info) { return info.param.label(); });

}  // namespace
}  // namespace tern::test
