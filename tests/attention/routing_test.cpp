// Routing Transformer against PyTorch, and against algorithm 1 of its paper in double: cosines with the
// centroids, the best tokens of each cluster, attention among them, averages, and what the backward pass tells
// the centroids.
#include <algorithm>
#include <numeric>

#include <gtest/gtest.h>

#include "support/attention_by_definition.h"
#include "support/attention_contract.h"
#include "support/golden.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"

namespace tern::test {
namespace {

constexpr AttentionShape shape{.heads = 2, .head_width = 8, .max_length = 64};

/// Rows of mean 0 and length near 1: layer norm over the root of the width.
Array centred_array(Array x) {
  const std::int64_t width = x.size(-1);
  for (std::int64_t r = 0; r < x.count() / width; ++r) {
    double mean = 0, square = 0;
    for (std::int64_t c = 0; c < width; ++c) mean += x[r * width + c] / static_cast<double>(width);
    for (std::int64_t c = 0; c < width; ++c) square += (x[r * width + c] - mean) * (x[r * width + c] - mean);
    const double deviation = std::sqrt(square / static_cast<double>(width) + 1e-5);
    for (std::int64_t c = 0; c < width; ++c)
      x[r * width + c] = (x[r * width + c] - mean) / (deviation * std::sqrt(static_cast<double>(width)));
  }
  return x;
}

/// Rows [tokens, heads, width] and centroids [heads, clusters, width] of one head.
struct Routing {
  const Array &rows, &centroids;
  std::int64_t head;
  std::int64_t clusters() const { return centroids.size(1); }
  double cosine(std::int64_t token, std::int64_t cluster) const {
    const std::int64_t width = rows.size(2);
    double sum = 0;
    for (std::int64_t c = 0; c < width; ++c)
      sum += rows[(token * rows.size(1) + head) * width + c] *
             centroids[(head * clusters() + cluster) * width + c];
    return sum;
  }
  /// Of the tokens 0 .. length - 1, those that the cluster takes.
  std::vector<std::int64_t> best(std::int64_t cluster, std::int64_t length, std::int64_t window) const {
    std::vector<std::int64_t> tokens(static_cast<std::size_t>(length));
    std::iota(tokens.begin(), tokens.end(), 0);
    std::stable_sort(tokens.begin(), tokens.end(),
                     [&](auto a, auto b) { return cosine(a, cluster) > cosine(b, cluster); });
    tokens.resize(static_cast<std::size_t>(window));
    return tokens;
  }
  std::int64_t nearest(std::int64_t token) const {
    std::int64_t out = 0;
    for (std::int64_t c = 1; c < clusters(); ++c)
      if (cosine(token, c) > cosine(token, out)) out = c;
    return out;
  }
};

/// The output of all heads for one sequence: `attending` are the rows that attend, `routed` those that route.
Array routed_by_definition(const std::vector<Array>& attending, const std::vector<Array>& routed,
                           const Array& centroids, std::int64_t window, double scale) {
  const Array &q = attending.at(0), &k = attending.at(1), &v = attending.at(2);
  const std::int64_t length = q.size(0), heads = q.size(1), width = q.size(2);
  Array out(q.shape);
  for (std::int64_t h = 0; h < heads; ++h) {
    const Routing queries{routed.at(0), centroids, h}, keys{routed.at(1), centroids, h};
    std::vector<double> taken(static_cast<std::size_t>(length));
    const auto at = [&](std::int64_t token) { return (token * heads + h) * width; };
    for (std::int64_t cluster = 0; cluster < queries.clusters(); ++cluster)
      for (const std::int64_t i : queries.best(cluster, length, window)) {
        const std::vector<std::int64_t> seen = keys.best(cluster, length, window);
        std::vector<double> products;
        for (const std::int64_t j : seen) {
          products.push_back(0);
          for (std::int64_t c = 0; c < width; ++c) products.back() += q[at(i) + c] * k[at(j) + c];
        }
        const std::vector<double> weights = softmax_weights(scale)(products);
        for (std::size_t j = 0; j < seen.size(); ++j)
          for (std::int64_t c = 0; c < width; ++c) out[at(i) + c] += weights[j] * v[at(seen[j]) + c];
        taken[static_cast<std::size_t>(i)] += 1;
      }
    for (std::int64_t i = 0; i < length; ++i)
      for (std::int64_t c = 0; c < width; ++c)
        out[at(i) + c] /= std::max(taken[static_cast<std::size_t>(i)], 1.0);
  }
  return out;
}

TEST(Routing, is_algorithm_1_of_the_paper) {
  const SequenceLayout layout = layout_of({45}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const std::vector<Array> x{array_of(rows[0]), array_of(rows[1]), array_of(rows[2])};
  const std::vector<Array> centred{centred_array(x[0]), centred_array(x[1]), x[2]},
      units{unit_array(x[0]), unit_array(x[1])};
  for (const std::int64_t window : {9, 4, 20}) {
    const std::vector<std::string> settings{"clusters=5", "routed_heads=2",
                                            format_text("window={}", window == 9 ? 0 : window)};
    const Mechanism mechanism({"routing", settings}, shape);
    const Array centroids = array_of(mechanism.parameter("centroids").value);
    EXPECT_EQ(centroids.shape, (Shape{2, 5, 8}));
    EXPECT_EQ(difference(unit_array(centroids).values, centroids.values, 1e-15), "") << "rows of length 1";
    EXPECT_EQ(
        difference(mechanism(rows, layout).to_vector<double>(),
                   routed_by_definition(centred, centred, centroids, window, std::sqrt(8.0)).values, 1e-12),
        "");
    std::vector<std::string> published = settings;
    published.emplace_back("published=true");
    EXPECT_EQ(difference(Mechanism({"routing", published}, shape)(rows, layout).to_vector<double>(),
                         routed_by_definition(x, units, centroids, window, 1 / std::sqrt(8.0)).values, 1e-12),
              "");
  }
}

/// With gathers, and autograd through the commitment (golden/routing.safetensors).
TEST(Routing, matches_pytorch) {
  const Golden golden("routing");
  const SequenceLayout layout = layout_of({19, 1, 8, 3}, 64);
  for (const std::string form : {"paper", "published"})
    for (const std::string window : {"0", "4"}) {
      const Mechanism mechanism({"routing",
                                 {"clusters=3", "routed_heads=2", "commitment=0.3", "window=" + window,
                                  form == "paper" ? "published=false" : "published=true"}},
                                shape);
      const Tensor centroids = mechanism.parameter("centroids").value;
      copy(golden.tensor("centroids"), centroids.detach());
      const std::vector<Tensor> x{leaf(golden.tensor("q")), leaf(golden.tensor("k")), leaf(golden.tensor("v"))};
      const Tensor y = mechanism(x, layout), dy = golden.tensor("dy");
      const auto expected = [&](const char* name) { return golden.values(form + "." + window + "." + name); };
      EXPECT_EQ(difference(y.to_vector<double>(), expected("y"), 1e-12), "") << form << window;
      backward(std::span(&y, 1), std::span(&dy, 1));
      EXPECT_EQ(difference(gradient_of(x[0]).to_vector<double>(), expected("dq"), 1e-11), "") << form << window;
      EXPECT_EQ(difference(gradient_of(x[1]).to_vector<double>(), expected("dk"), 1e-11), "") << form << window;
      EXPECT_EQ(difference(gradient_of(x[2]).to_vector<double>(), expected("dv"), 1e-11), "") << form << window;
      EXPECT_EQ(difference(gradient_of(centroids).to_vector<double>(), expected("dcentroids"), 1e-11), "")
          << form << window;
    }
}

/// The limit: one cluster holds the whole sequence.
TEST(Routing, with_one_cluster_is_exact_attention) {
  const SequenceLayout layout = layout_of({40, 1, 0, 63}, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const std::vector<Array> x{array_of(rows[0]), array_of(rows[1]), array_of(rows[2])};
  for (const bool published : {false, true}) {
    const Mechanism mechanism(
        {"routing", {"clusters=1", "routed_heads=2", published ? "published=true" : "window=1000"}}, shape);
    const Array expected = published ? attended(x, layout, softmax_weights(1 / std::sqrt(8.0)))
                                     : attended({centred_array(x[0]), centred_array(x[1]), x[2]}, layout,
                                                softmax_weights(std::sqrt(8.0)));
    EXPECT_EQ(difference(mechanism(rows, layout).to_vector<double>(), expected.values, 1e-12), "");
  }
}

/// Half of the heads, rounded down, are local: they see their neighbours by original position.
TEST(Routing, other_heads_see_their_neighbours) {
  constexpr AttentionShape three{.heads = 3, .head_width = 8, .max_length = 64};
  const SequenceLayout layout = layout_of({30, 5}, 64);
  const std::vector<Tensor> rows = random_rows(layout, three);
  const Mechanism mechanism({"routing", {"local_window=6", "clusters=4"}}, three);
  EXPECT_EQ(mechanism.parameter("centroids").value.shape(), (Shape{2, 4, 8}));
  const Tensor y = mechanism(rows, layout);
  const auto head = [&](const Tensor& x) { return contiguous(slice(x, 1, 0, 1)); };
  constexpr AttentionShape one{.heads = 1, .head_width = 8, .max_length = 64};
  const Mechanism near({"longformer", {"window=6", "global_tokens=0"}}, one);
  const Tensor expected = near(std::vector{head(rows[0]), head(rows[1]), head(rows[2])}, layout);
  EXPECT_EQ(head(y).to_vector<double>(), expected.to_vector<double>());
}

/// Without the loss of commitment the gradient is the derivative at fixed clusters.
TEST(Routing, gradient_is_the_derivative_but_for_the_commitment) {
  const SequenceLayout layout = layout_of({14, 1, 6}, 64);
  for (const char* form : {"published=false", "published=true"}) {
    const Mechanism mechanism({"routing", {"commitment=0", "clusters=3", form}}, shape);
    for (const std::string& line : gradient_failures(mechanism.function(layout), random_rows(layout, shape)))
      ADD_FAILURE() << line;
  }
}

/// Mean of |x - c|^2 over the elements of routed queries and keys, c the nearest centroid, summed over
/// sequences.
double distance(const std::vector<Array>& routed, const Array& centroids, const std::vector<int>& lengths) {
  const std::int64_t heads = routed[0].size(1), width = routed[0].size(2);
  double total = 0;
  for (const Array& rows : routed) {
    std::int64_t token = 0;
    for (const int length : lengths)
      for (int i = 0; i < length; ++i, ++token)
        for (std::int64_t h = 0; h < heads; ++h) {
          const Routing routing{rows, centroids, h};
          const std::int64_t nearest = routing.nearest(token);
          for (std::int64_t c = 0; c < width; ++c) {
            const double apart = rows[(token * heads + h) * width + c] -
                                 centroids[(h * centroids.size(1) + nearest) * width + c];
            total += apart * apart / static_cast<double>(2 * length * heads * width);
          }
        }
  }
  return total;
}

TEST(Routing, commitment_draws_queries_and_keys_to_their_centroids) {
  const std::vector<int> lengths{12, 3};
  const SequenceLayout layout = layout_of(lengths, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const auto gradients = [&](const char* commitment) {
    return values_and_gradients(
        Mechanism({"routing", {"clusters=3", "routed_heads=2", "published=true", commitment}}, shape), rows,
        layout);
  };
  const std::vector<Array> with = gradients("commitment=0.5"), without = gradients("commitment=0");
  EXPECT_EQ(with[0].values, without[0].values) << "the output stays";
  EXPECT_EQ(with[3].values, without[3].values) << "values have no part in it";
  const Mechanism mechanism({"routing", {"clusters=3", "routed_heads=2"}}, shape);
  const Array centroids = array_of(mechanism.parameter("centroids").value);
  for (std::size_t part : {std::size_t{0}, std::size_t{1}}) {
    Array actual = with[part + 1], expected(actual.shape);
    for (std::int64_t i = 0; i < actual.count(); ++i) {
      actual[i] -= without[part + 1][i];
      const auto loss = [&](double change) {
        std::vector<Array> x{array_of(rows[0]), array_of(rows[1])};
        x[part][i] += change;
        return 0.5 * distance({unit_array(x[0]), unit_array(x[1])}, centroids, lengths);
      };
      expected[i] = (loss(1e-5) - loss(-1e-5)) / 2e-5;
    }
    EXPECT_EQ(difference(actual.values, expected.values, 1e-7), "") << part;
  }
}

/// A centroid's gradient points away from the sum of the tokens nearest to it, each sequence counting alike;
/// the gradient of one that no token is nearest to is 0.
TEST(Routing, the_gradient_of_a_centroid_is_the_sum_of_its_tokens) {
  const std::vector<int> lengths{12, 3};
  const SequenceLayout layout = layout_of(lengths, 64);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  const std::vector<Array> routed{centred_array(array_of(rows[0])), centred_array(array_of(rows[1]))};
  for (const char* commitment : {"commitment=0", "commitment=0.01"}) {
    const Mechanism mechanism({"routing", {"clusters=20", "routed_heads=2", commitment}}, shape);
    const Array centroids = array_of(mechanism.parameter("centroids").value);
    backward(mechanism.function(layout)(rows)[0]);
    const Array gradient = array_of(gradient_of(mechanism.parameter("centroids").value));
    Array sums(centroids.shape);
    for (const Array& x : routed)
      for (std::int64_t token = 0; token < 15; ++token)
        for (std::int64_t h = 0; h < 2; ++h) {
          const std::int64_t nearest = Routing{x, centroids, h}.nearest(token);
          for (std::int64_t c = 0; c < 8; ++c)
            sums[(h * 20 + nearest) * 8 + c] -= x[(token * 2 + h) * 8 + c] / (token < 12 ? 12 : 3);
        }
    const double factor = std::string_view(commitment) == "commitment=0" ? 1 : 0.01 / (2 * 8);
    EXPECT_EQ(difference(gradient.values, mapped(sums, [=](double x) { return factor * x; }).values, 1e-12),
              "");
    std::int64_t unused = 0;
    for (std::int64_t r = 0; r < 40; ++r)
      unused += std::all_of(gradient.values.begin() + r * 8, gradient.values.begin() + r * 8 + 8,
                            [](double g) { return g == 0; })
                    ? 1
                    : 0;
    EXPECT_GT(unused, 0) << "the case must have a centroid without tokens";
  }
}

TEST(Routing, evaluation_leaves_the_centroids_alone) {
  const SequenceLayout layout = layout_of({12}, 64);
  const Mechanism mechanism({"routing", {"clusters=3"}}, shape);
  const std::vector<Tensor> rows = random_rows(layout, shape);
  backward(mechanism.function(layout, false)(std::vector{leaf(rows[0]), leaf(rows[1]), leaf(rows[2])})[0]);
  const auto gradient = gradient_of(mechanism.parameter("centroids").value).to_vector<double>();
  EXPECT_EQ(std::count(gradient.begin(), gradient.end(), 0.0), std::ssize(gradient));
}

TEST(Routing, settings_that_do_not_fit_are_refused) {
  for (const char* setting :
       {"clusters=0", "window=-1", "local_window=3", "decay=1", "decay=0", "commitment=-1"})
    EXPECT_EQ(thrown_error([&] {
                Mechanism({"routing", {setting}}, shape);
              }).code(),
              ExitCode::bad_config)
        << setting;
  const Error error = thrown_error([] { Mechanism({"routing", {"routed_heads=3"}}, shape); });
  EXPECT_EQ(error.code(), ExitCode::bad_config);
  EXPECT_TRUE(mentions(error, "model.attention.routed_heads")) << error.what();
}

}  // namespace
}  // namespace tern::test
