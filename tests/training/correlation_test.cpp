#include "training/correlation.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

namespace tern {
namespace {

using Values = std::vector<double>;

TEST(Correlation, pearson_of_small_samples) {
  // By hand: deviations {-1.5, -0.5, 0.5, 1.5} and {-2, 1, -1, 2}: products 5, squares 5 and 10.
  EXPECT_NEAR(pearson_correlation(Values{1, 2, 3, 4}, Values{0, 3, 1, 4}), 5 / std::sqrt(50.0), 1e-15);
  EXPECT_DOUBLE_EQ(pearson_correlation(Values{1, 2, 3}, Values{10, 30, 50}), 1);
  EXPECT_DOUBLE_EQ(pearson_correlation(Values{1, 2, 3}, Values{3, 2, 1}), -1);
}

TEST(Correlation, spearman_is_pearson_of_ranks_with_ties_shared) {
  EXPECT_DOUBLE_EQ(spearman_correlation(Values{1, 2, 3, 4}, Values{1, 10, 100, 1e6}), 1);
  // Ranks {0, 1.5, 1.5, 3} and {3, 0, 1, 2}: deviations {-1.5, 0, 0, 1.5} and {1.5, -1.5, -0.5, 0.5}.
  EXPECT_NEAR(spearman_correlation(Values{1, 5, 5, 9}, Values{8, 2, 3, 4}), -1.5 / std::sqrt(4.5 * 5), 1e-15);
}

TEST(Correlation, is_zero_where_it_is_not_defined) {
  EXPECT_EQ(pearson_correlation(Values{}, Values{}), 0);
  EXPECT_EQ(pearson_correlation(Values{1}, Values{2}), 0);
  EXPECT_EQ(pearson_correlation(Values{3, 3, 3}, Values{1, 2, 3}), 0);
  EXPECT_EQ(spearman_correlation(Values{1, std::numeric_limits<double>::quiet_NaN()}, Values{1, 2}), 0);
}

}  // namespace
}  // namespace tern
