// Correlations of a regression's predictions with its targets.
#pragma once

#include <span>

namespace tern {

/// Pearson's correlation of two ranges of equal length: covariance over the product of the deviations. 0 where
/// one of them does not vary or fewer than two values are there.
double pearson_correlation(std::span<const double> a, std::span<const double> b);

/// Spearman's: Pearson's of the ranks, where equal values share their mean rank. Cost n log n.
double spearman_correlation(std::span<const double> a, std::span<const double> b);

}  // namespace tern
