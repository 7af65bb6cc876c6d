#include "training/correlation.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "tern/error.h"

namespace tern {
namespace {

double mean_of(std::span<const double> x) {
  return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
}

std::vector<double> ranks_of(std::span<const double> x) {
  std::vector<std::size_t> order(x.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return x[a] < x[b]; });
  std::vector<double> ranks(x.size());
  for (std::size_t first = 0; first < order.size();) {
    std::size_t end = first + 1;
    while (end < order.size() && x[order[end]] == x[order[first]]) ++end;
    const double shared = 0.5 * static_cast<double>(first + end - 1);
    for (; first < end; ++first) ranks[order[first]] = shared;
  }
  return ranks;
}

}  // namespace

double pearson_correlation(std::span<const double> a, std::span<const double> b) {
  ensure(a.size() == b.size(), "correlation: {} values with {}", a.size(), b.size());
  if (a.size() < 2) return 0;
  const double mean_a = mean_of(a), mean_b = mean_of(b);
  double products = 0, squares_a = 0, squares_b = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    products += (a[i] - mean_a) * (b[i] - mean_b);
    squares_a += (a[i] - mean_a) * (a[i] - mean_a);
    squares_b += (b[i] - mean_b) * (b[i] - mean_b);
  }
  const double scale = std::sqrt(squares_a) * std::sqrt(squares_b);
  return scale > 0 ? std::clamp(products / scale, -1.0, 1.0) : 0;
}

double spearman_correlation(std::span<const double> a, std::span<const double> b) {
  const auto is_number = [](double x) { return !std::isnan(x); };
  if (!std::all_of(a.begin(), a.end(), is_number) || !std::all_of(b.begin(), b.end(), is_number)) return 0;
  return pearson_correlation(ranks_of(a), ranks_of(b));
}

}  // namespace tern
