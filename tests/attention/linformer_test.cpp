// Linformer against its definition (Wang et al. 2020, arXiv 2006.04768, equation 7), and its limit.
#include <gtest/gtest.h>

#include "support/attention_by_definition.h"
#include "support/attention_contract.h"
#include "support/tolerance.h"

namespace tern::test {
namespace {

constexpr AttentionShape shape{.heads = 2, .head_width = 6, .max_length = 20};

/// Two sequences with masked positions.
const std::vector<std::int32_t> offsets{0, 6, 15}, position{0, 1, 2, 4, 5, 19, 1, 2, 3, 5, 7, 8, 9, 11, 18};
SequenceLayout gapped() { return make_layout(offsets, position, {40, 41}, 20); }

/// sum over the tokens of sequence s of projection[position, i] x[token, h, c].
double projected(const Array& projection, const Array& x, std::size_t s, std::int64_t i, std::int64_t h,
                 std::int64_t c) {
  double total = 0;
  for (std::int64_t t = offsets[s]; t < offsets[s + 1]; ++t)
    total += projection.at(position[static_cast<std::size_t>(t)], i) * x[(t * 2 + h) * 6 + c];
  return total;
}

std::vector<double> expected(const Array& e, const Array& f, const std::vector<Tensor>& rows) {
  const Array q = array_of(rows[0]), k = array_of(rows[1]), v = array_of(rows[2]);
  const std::int64_t length = e.size(1);
  std::vector<double> out(v.values.size());
  for (std::size_t s = 0; s < 2; ++s)
    for (std::int64_t t = offsets[s]; t < offsets[s + 1]; ++t)
      for (std::int64_t h = 0; h < 2; ++h) {
        std::vector<double> scores(static_cast<std::size_t>(length));
        for (std::int64_t i = 0; i < length; ++i)
          for (std::int64_t c = 0; c < 6; ++c)
            scores[static_cast<std::size_t>(i)] += q[(t * 2 + h) * 6 + c] * projected(e, k, s, i, h, c);
        const std::vector<double> weights = softmax_weights(1 / std::sqrt(6.0))(scores);
        for (std::int64_t i = 0; i < length; ++i)
          for (std::int64_t c = 0; c < 6; ++c)
            out[static_cast<std::size_t>((t * 2 + h) * 6 + c)] +=
                weights[static_cast<std::size_t>(i)] * projected(f, v, s, i, h, c);
      }
  return out;
}

/// Entries of a size at which the weights differ.
void fill_projection(const Parameter& parameter, std::uint64_t seed) {
  copy(tensor_of(normal_array(parameter.value.shape(), seed), DType::float64), parameter.value.detach());
}

TEST(Linformer, follows_its_definition_by_original_position) {
  const Mechanism mechanism({"linformer", {"projected_length=4"}}, shape);
  const Parameter &e = mechanism.parameter("key.weight"), &f = mechanism.parameter("value.weight");
  EXPECT_EQ(e.value.shape(), (Shape{20, 4}));
  fill_projection(e, 1);
  fill_projection(f, 2);
  const std::vector<Tensor> rows = random_rows(gapped(), shape);
  EXPECT_EQ(difference(mechanism(rows, gapped()).to_vector<double>(),
                       expected(array_of(e.value), array_of(f.value), rows), 1e-12),
            "");
}

TEST(Linformer, keys_and_values_may_share_the_projection) {
  const Mechanism mechanism({"linformer", {"projected_length=4", "shared_key_value=true"}}, shape);
  const Parameter& e = mechanism.parameter("key.weight");
  fill_projection(e, 3);
  const std::vector<Tensor> rows = random_rows(gapped(), shape);
  EXPECT_EQ(difference(mechanism(rows, gapped()).to_vector<double>(),
                       expected(array_of(e.value), array_of(e.value), rows), 1e-12),
            "");
  EXPECT_ANY_THROW(mechanism.parameter("value.weight"));
}

/// Central differences of sum(y dy) in some entries of both projections; masked positions get no gradient.
TEST(Linformer, gradients_of_the_projections_are_derivatives) {
  for (const char* shared : {"shared_key_value=false", "shared_key_value=true"}) {
    const Mechanism mechanism({"linformer", {"projected_length=4", shared}}, shape);
    std::vector<std::string> names{"key.weight"};
    if (std::string(shared) == "shared_key_value=false") names.emplace_back("value.weight");
    const std::vector<Tensor> rows = random_rows(gapped(), shape);
    const Array dy = normal_array(rows[0].shape(), 5);
    for (const std::string& name : names) fill_projection(mechanism.parameter(name), name.size());
    const Tensor y = mechanism(rows, gapped()), seed = tensor_of(dy, DType::float64);
    backward(std::span(&y, 1), std::span(&seed, 1));
    for (const std::string& name : names) {
      const Tensor value = mechanism.parameter(name).value;
      const Array gradient = array_of(gradient_of(value)), start = array_of(value);
      const auto sum_at = [&](std::int64_t entry, double step) {
        Array moved = start;
        moved[entry] += step;
        copy(tensor_of(moved, DType::float64), value.detach());
        const std::vector<double> out = mechanism(rows, gapped()).to_vector<double>();
        double total = 0;
        for (std::size_t i = 0; i < out.size(); ++i) total += out[i] * dy.values[i];
        return total;
      };
      for (const std::int64_t entry : {0, 5, 22, 79})  // positions 0, 1, 5 and 19
        EXPECT_NEAR(gradient[entry], (sum_at(entry, 1e-5) - sum_at(entry, -1e-5)) / 2e-5,
                    1e-7 * (1 + std::abs(gradient[entry])))
            << name << " " << entry;
      copy(tensor_of(start, DType::float64), value.detach());
      for (const std::int64_t place : {6, 10, 17})
        for (std::int64_t i = 0; i < 4; ++i) EXPECT_EQ(gradient.at(place, i), 0);
    }
  }
}

/// A projection that keeps every position is none.
TEST(Linformer, the_identity_gives_softmax_attention) {
  const SequenceLayout layout = layout_of({20, 20}, 20);
  const Mechanism mechanism({"linformer", {"projected_length=20"}}, shape);
  Array identity({20, 20});
  for (std::int64_t i = 0; i < 20; ++i) identity.at(i, i) = 1;
  for (const char* name : {"key.weight", "value.weight"})
    copy(tensor_of(identity, DType::float64), mechanism.parameter(name).value.detach());
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const Array exact = attended({array_of(rows[0]), array_of(rows[1]), array_of(rows[2])}, layout,
                               softmax_weights(1 / std::sqrt(6.0)));
  EXPECT_EQ(difference(mechanism(rows, layout).to_vector<double>(), exact.values, 1e-13), "");
}

}  // namespace
}  // namespace tern::test
