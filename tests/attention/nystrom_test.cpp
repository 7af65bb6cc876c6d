// Nystromformer against its definition with whole matrices (Xiong et al. 2021, arXiv 2102.03902, equations 11,
// 13 and 14), against Hugging Face's module, and its limit.
#include <algorithm>
#include <array>

#include <gtest/gtest.h>

#include "support/attention_by_definition.h"
#include "support/attention_contract.h"
#include "support/golden.h"
#include "support/tolerance.h"

namespace tern::test {
namespace {

constexpr AttentionShape shape{.heads = 2, .head_width = 6, .max_length = 64};

Array product(const Array& a, const Array& b) {
  Array out({a.size(0), b.size(1)});
  for (std::int64_t i = 0; i < a.size(0); ++i)
    for (std::int64_t k = 0; k < a.size(1); ++k)
      for (std::int64_t j = 0; j < b.size(1); ++j) out.at(i, j) += a.at(i, k) * b.at(k, j);
  return out;
}
Array transposed(const Array& a) {
  Array out({a.size(1), a.size(0)});
  for (std::int64_t i = 0; i < a.size(0); ++i)
    for (std::int64_t j = 0; j < a.size(1); ++j) out.at(j, i) = a.at(i, j);
  return out;
}
/// factor I - a.
Array identity_less(double factor, Array a) {
  for (std::int64_t i = 0; i < a.size(0); ++i)
    for (std::int64_t j = 0; j < a.size(1); ++j) a.at(i, j) = (i == j ? factor : 0) - a.at(i, j);
  return a;
}
/// softmax(a b^T / sqrt(head width)) by rows.
Array weights_of(const Array& a, const Array& b) {
  Array out = product(a, transposed(b));
  const Weights softmax = softmax_weights(1 / std::sqrt(6.0));
  for (std::int64_t i = 0; i < out.size(0); ++i) {
    const std::int64_t begin = i * out.size(1);
    const std::vector<double> row =
        softmax({out.values.begin() + begin, out.values.begin() + begin + out.size(1)});
    std::copy(row.begin(), row.end(), out.values.begin() + begin);
  }
  return out;
}
double largest_column_sum(const Array& m) {
  double largest = 0;
  for (std::int64_t j = 0; j < m.size(1); ++j) {
    double total = 0;
    for (std::int64_t i = 0; i < m.size(0); ++i) total += m.at(i, j);
    largest = std::max(largest, total);
  }
  return largest;
}

Array iterated_inverse_of(const Array& m, int iterations) {
  const double largest = largest_column_sum(m);
  Array z = mapped(transposed(m), [&](double v) { return v / largest; });
  for (int step = 0; step < iterations; ++step) {
    const Array y = product(m, z);
    const Array inner = identity_less(15, product(y, identity_less(7, y)));
    z = mapped(product(z, identity_less(13, product(y, inner))), [](double v) { return v / 4; });
  }
  return z;
}

/// Means of floor(i n / count) .. floor((i + 1) n / count) - 1.
Array means_of(const Array& x, std::int64_t count) {
  Array out({count, x.size(1)});
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t begin = i * x.size(0) / count, end = (i + 1) * x.size(0) / count;
    for (std::int64_t t = begin; t < end; ++t)
      for (std::int64_t c = 0; c < x.size(1); ++c)
        out.at(i, c) += x.at(t, c) / static_cast<double>(end - begin);
  }
  return out;
}

/// The rows of one head of the tokens first .. first + count - 1.
Array rows_of(const Array& x, std::int64_t first, std::int64_t count, std::int64_t head) {
  Array out({count, x.size(2)});
  for (std::int64_t t = 0; t < count; ++t)
    for (std::int64_t c = 0; c < x.size(2); ++c)
      out.at(t, c) = x[((first + t) * x.size(1) + head) * x.size(2) + c];
  return out;
}

/// One sequence and head; no more tokens than landmarks: exact attention.
Array attended_by_landmarks(const Array& q, const Array& k, const Array& v, std::int64_t landmarks) {
  if (q.size(0) <= landmarks) return product(weights_of(q, k), v);
  const Array queries = means_of(q, landmarks), keys = means_of(k, landmarks);
  const Array inverse = iterated_inverse_of(weights_of(queries, keys), 6);
  return product(product(weights_of(q, keys), inverse), product(weights_of(queries, k), v));
}

std::vector<double> expected(const std::vector<Tensor>& rows, const std::vector<int>& lengths,
                             std::int64_t landmarks) {
  const Array q = array_of(rows[0]), k = array_of(rows[1]), v = array_of(rows[2]);
  std::vector<double> out(v.values.size());
  std::int64_t first = 0;
  for (const int length : lengths) {
    for (std::int64_t h = 0; h < shape.heads; ++h) {
      const Array y = attended_by_landmarks(rows_of(q, first, length, h), rows_of(k, first, length, h),
                                            rows_of(v, first, length, h), landmarks);
      for (std::int64_t i = 0; i < y.count(); ++i)
        out[static_cast<std::size_t>(((first + i / 6) * shape.heads + h) * 6 + i % 6)] = y[i];
    }
    first += length;
  }
  return out;
}

std::vector<double> values(const Variant& variant, const std::vector<Tensor>& rows,
                           const SequenceLayout& layout) {
  return Mechanism(variant, shape)(rows, layout).to_vector<double>();
}

/// Lengths below, at and above the landmarks, multiples of them and not.
TEST(Nystrom, follows_its_definition) {
  const std::vector<int> lengths{24, 1, 8, 0, 9, 37, 7};
  const SequenceLayout layout = layout_of(lengths, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  EXPECT_EQ(difference(values({"nystrom", {"landmarks=8", "conv_window=0"}}, rows, layout),
                       expected(rows, lengths, 8), 1e-9),
            "");
  EXPECT_EQ(difference(values({"nystrom", {"landmarks=5", "conv_window=0"}}, rows, layout),
                       expected(rows, lengths, 5), 1e-9),
            "");
}

TEST(Nystrom, short_sequences_get_exact_attention_and_its_gradient) {
  const SequenceLayout layout = layout_of({8, 3, 1}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const std::vector<Array> actual = values_and_gradients(
                               Mechanism({"nystrom", {"landmarks=8", "conv_window=0"}}, shape), rows, layout),
                           exact =
                               values_and_gradients(Mechanism({"softmax", {"dropout=0"}}, shape), rows, layout);
  for (std::size_t i = 0; i < exact.size(); ++i)
    EXPECT_EQ(difference(actual[i].values, exact[i].values, 1e-12), "") << i;
}

/// Rows that change slowly along the sequence, as the means of segments assume.
TEST(Nystrom, approaches_softmax_attention_as_segments_shrink) {
  const SequenceLayout layout = layout_of({60}, 64);
  std::vector<Tensor> rows;
  for (const double phase : {0.0, 1.0, 2.0}) {
    Array x({60, shape.heads, shape.head_width});
    for (std::int64_t i = 0; i < x.count(); ++i)
      x[i] = std::sin(phase + 0.01 * static_cast<double>(i / 12) * static_cast<double>(1 + i % 12));
    rows.push_back(tensor_of(x, DType::float64));
  }
  const std::vector<double> exact = values({"softmax", {"dropout=0"}}, rows, layout);
  const auto error = [&](const char* landmarks) {
    const std::vector<double> y =
        values({"nystrom", {landmarks, "conv_window=0", "iterations=20"}}, rows, layout);
    double largest = 0;
    for (std::size_t i = 0; i < y.size(); ++i) largest = std::max(largest, std::abs(y[i] - exact[i]));
    return largest;
  };
  const double few = error("landmarks=2"), some = error("landmarks=10"), many = error("landmarks=30");
  EXPECT_GT(few, 0.1);
  EXPECT_LT(some, few / 100);
  EXPECT_LT(many, some / 10);
  EXPECT_LT(error("landmarks=60"), 1e-13);
}

/// q, k, v, the convolution's filter and their gradients by NystromformerSelfAttention of Hugging Face.
void check_against_golden(const std::string& setting, const std::string& prefix) {
  const Golden golden("nystromformer");
  const SequenceLayout layout = layout_of({24, 24, 24}, 24);
  const Mechanism mechanism({"nystrom", {"landmarks=6", "conv_window=5", setting}}, shape);
  const Parameter& filter = mechanism.parameter("convolution.weight");
  copy(golden.tensor("weight"), filter.value.detach());
  std::vector<Tensor> in;
  for (const char* name : {"q", "k", "v"}) in.push_back(leaf(golden.tensor(name)));
  const Tensor y = mechanism(in, layout), dy = golden.tensor("dy");
  backward(std::span(&y, 1), std::span(&dy, 1));
  EXPECT_EQ(difference(y.to_vector<double>(), golden.values(prefix + "y"), 1e-9), "");
  in.push_back(filter.value);
  for (std::size_t i = 0; i < in.size(); ++i) {
    const std::string name = std::array{"dq", "dk", "dv", "dweight"}[i];
    EXPECT_EQ(difference(gradient_of(in[i]).to_vector<double>(), golden.values(prefix + name), 1e-8), "")
        << name;
  }
}

TEST(Nystrom, matches_hugging_face_with_a_start_for_each_matrix) {
  check_against_golden("published=false", "exact.");
}
TEST(Nystrom, the_published_start_matches_hugging_face) { check_against_golden("published=true", "original."); }

TEST(Nystrom, the_published_start_couples_the_sequences_of_a_batch) {
  const std::vector<std::string> own{"landmarks=5", "conv_window=0"};
  std::vector<std::string> published = own;
  published.push_back("published=true");
  const SequenceLayout both = layout_of({20, 30}, 64), alone = layout_of({20}, 64);
  const std::vector<Tensor> rows = random_rows(both, shape);
  std::vector<Tensor> first;
  for (const Tensor& x : rows) first.push_back(slice(x, 0, 0, 20));
  const auto together = [&](const std::vector<std::string>& settings) {
    return slice(Mechanism({"nystrom", settings}, shape)(rows, both), 0, 0, 20).to_vector<double>();
  };
  EXPECT_EQ(difference(together(own), values({"nystrom", own}, first, alone), 1e-13), "");
  EXPECT_NE(difference(together(published), values({"nystrom", published}, first, alone), 1e-6), "");
}

}  // namespace
}  // namespace tern::test
