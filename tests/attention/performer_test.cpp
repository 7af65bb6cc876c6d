// Performer against sums over all pairs with features written from the paper (Choromanski et al. 2021, arXiv
// 2009.14794, lemma 1 and section 2.4), and its convergence to softmax attention.
#include <gtest/gtest.h>

#include "support/attention_by_definition.h"
#include "support/attention_contract.h"
#include "support/tolerance.h"

namespace tern::test {
namespace {

constexpr AttentionShape shape{.heads = 2, .head_width = 8, .max_length = 64};
constexpr std::uint32_t first_epoch = 0;

/// The directions of the mechanism that support/attention_contract.h builds, before they are drawn anew.
Array directions_of(std::int64_t features) {
  return array_of(orthogonal_directions(
      {features, shape.head_width}, {{stream_key(17, "attention.directions"), &first_epoch}}, DType::float64));
}

using Feature = std::function<double(double dot, double square)>;

/// features(x)_f = feature(w_f . x, |x|^2) of scaled rows.
Array features_of(const Array& x, const Array& w, double scale, const Feature& feature) {
  const std::int64_t width = x.size(2), count = w.size(0);
  Array out({x.size(0), x.size(1), count});
  for (std::int64_t row = 0; row < x.size(0) * x.size(1); ++row)
    for (std::int64_t f = 0; f < count; ++f) {
      double dot = 0, square = 0;
      for (std::int64_t c = 0; c < width; ++c)
        dot += scale * w.at(f, c) * x[row * width + c],
            square += scale * scale * x[row * width + c] * x[row * width + c];
      out[row * count + f] = feature(dot, square);
    }
  return out;
}

/// Sum over the keys of phi(q) . phi(k) v, over that of phi(q) . phi(k).
std::vector<double> attended_by(const Array& q, const Array& k, const Array& v, const SequenceLayout& layout) {
  const std::int64_t heads = v.size(1), width = v.size(2), count = q.size(2);
  const auto offsets = layout.offsets.to_vector<std::int32_t>();
  std::vector<double> out(v.values.size());
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (std::int64_t i = offsets[s]; i < offsets[s + 1]; ++i)
      for (std::int64_t h = 0; h < heads; ++h) {
        double total = 0;
        double* to = out.data() + (i * heads + h) * width;
        for (std::int64_t j = offsets[s]; j < offsets[s + 1]; ++j) {
          double weight = 0;
          for (std::int64_t f = 0; f < count; ++f)
            weight += q[(i * heads + h) * count + f] * k[(j * heads + h) * count + f];
          total += weight;
          for (std::int64_t c = 0; c < width; ++c) to[c] += weight * v[(j * heads + h) * width + c];
        }
        for (std::int64_t c = 0; c < width; ++c) to[c] /= total;
      }
  return out;
}

std::vector<double> expected(const SequenceLayout& layout, const Array& w, double scale,
                             const Feature& feature) {
  const std::vector<Tensor> rows = random_rows(layout, shape);
  return attended_by(features_of(array_of(rows[0]), w, scale, feature),
                     features_of(array_of(rows[1]), w, scale, feature), array_of(rows[2]), layout);
}

double exponential_feature(double dot, double square) { return std::exp(dot - square / 2); }

std::vector<double> values(const Variant& variant, const SequenceLayout& layout) {
  return Mechanism(variant, shape)(random_rows(layout, shape), layout).to_vector<double>();
}

/// The shifts of the features cancel, so that the reference has none.
TEST(Performer, positive_features_estimate_the_exponential) {
  const SequenceLayout layout = layout_of({9, 1, 0, 33}, 64);
  const double scale = std::pow(8.0, -0.25);
  EXPECT_EQ(difference(values({"performer", {"features=20", "stabilizer=1e-30"}}, layout),
                       expected(layout, directions_of(20), scale, exponential_feature), 1e-12),
            "");
  EXPECT_EQ(difference(values({"performer", {}}, layout),
                       expected(layout, directions_of(256), scale, exponential_feature), 1e-3),
            "");
}

TEST(Performer, relu_features) {
  const SequenceLayout layout = layout_of({9, 1, 0, 33}, 64);
  const auto relu = [](double dot, double) { return std::max(dot, 0.0) + 1e-3; };
  EXPECT_EQ(difference(values({"performer", {"kernel=relu", "features=40"}}, layout),
                       expected(layout, directions_of(40), std::pow(8.0, -0.25), relu), 1e-12),
            "");
}

/// Logits are divided by the width, features get 1e-4, and the kernel's name is ignored.
TEST(Performer, the_published_form) {
  const SequenceLayout layout = layout_of({9}, 64);
  const Array without = [&] {
    Array out({9, 2, 8});
    out.values = expected(layout, directions_of(256), 1 / std::sqrt(8.0), exponential_feature);
    return out;
  }();
  const std::vector<double> published = values({"performer", {"published=true", "kernel=relu"}}, layout);
  EXPECT_EQ(difference(published, without.values, 0.02), "");
  EXPECT_NE(difference(published, without.values, 1e-6), "");
}

/// Rows of moderate length: the variance of the features grows exponentially with their squares.
TEST(Performer, converges_to_softmax_attention) {
  const SequenceLayout layout = layout_of({40}, 64);
  std::vector<Tensor> rows = random_rows(layout, shape);
  for (Tensor& x : rows) x = affine(x, 0.5);
  const std::vector<double> exact = attended({array_of(rows[0]), array_of(rows[1]), array_of(rows[2])}, layout,
                                             softmax_weights(1 / std::sqrt(8.0)))
                                        .values;
  const auto error = [&](const char* features) {
    const std::vector<double> y = Mechanism({"performer", {features}}, shape)(rows, layout).to_vector<double>();
    double square = 0;
    for (std::size_t i = 0; i < y.size(); ++i) square += (y[i] - exact[i]) * (y[i] - exact[i]);
    return std::sqrt(square / static_cast<double>(y.size()));
  };
  const double few = error("features=256"), many = error("features=16384");
  EXPECT_LT(few, 0.05);
  EXPECT_LT(many, few / 4);  // 1 / 8 in the limit
}

/// Without a stabilizer the shifts cancel in the derivative as well.
TEST(Performer, its_gradient_is_the_derivative_without_a_stabilizer) {
  const Mechanism mechanism({"performer", {"features=24", "stabilizer=1e-30"}}, shape);
  const SequenceLayout layout = layout_of({9, 1, 4}, 64);
  for (const std::string& line : gradient_failures(mechanism.function(layout), random_rows(layout, shape)))
    ADD_FAILURE() << line;
}

TEST(Performer, directions_are_drawn_anew_after_the_interval) {
  const SequenceLayout layout = layout_of({20}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const auto at = [&](const char* interval, std::uint32_t step) {
    Mechanism mechanism({"performer", {"features=16", interval}}, shape);
    mechanism.step = step;
    return mechanism(rows, layout).to_vector<double>();
  };
  EXPECT_EQ(at("redraw_interval=3", 3), at("redraw_interval=3", 5));
  EXPECT_NE(at("redraw_interval=3", 5), at("redraw_interval=3", 6));
  EXPECT_EQ(at("redraw_interval=0", 1), at("redraw_interval=0", 100000));
}

}  // namespace
}  // namespace tern::test
