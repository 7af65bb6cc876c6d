#include "app/error_study.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "app/bench_inputs.h"

namespace tern::app {
namespace {

double product(std::span<const double> a, std::span<const double> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double relative_error(const std::vector<double>& actual, const std::vector<double>& expected) {
  double squares = 0;
  for (std::size_t i = 0; i < actual.size(); ++i)
    squares += (actual[i] - expected[i]) * (actual[i] - expected[i]);
  return std::sqrt(squares / product(expected, expected));
}

Spread spread_of(const std::vector<double>& values) {
  const auto count = static_cast<double>(values.size());
  Spread spread;
  for (const double value : values) spread.mean += value / count;
  double squares = 0;
  for (const double value : values) squares += (value - spread.mean) * (value - spread.mean);
  if (values.size() > 1) spread.deviation = std::sqrt(squares / (count - 1));
  return spread;
}

struct RowFigures {
  double angle = 0, empty = 0;  ///< means over rows
};

RowFigures compare_rows(std::span<const double> actual, std::span<const double> expected, std::size_t width) {
  RowFigures figures;
  const auto rows = static_cast<double>(actual.size() / width);
  for (std::size_t at = 0; at < actual.size(); at += width) {
    const auto row = actual.subspan(at, width);
    figures.angle += angle_between(row, expected.subspan(at, width)) / rows;
    figures.empty += product(row, row) == 0 ? 1 / rows : 0;
  }
  return figures;
}

/// Standard normal values of x's shape, type and device, unlike those of any seed that a caller takes.
Tensor probe_like(const Tensor& x) {
  const RowShape shape{x.size(0), x.size(1), x.size(2)};
  constexpr std::uint64_t seed = 0x70726f6265;
  return contiguous(attention_rows(RowLaw::random, shape, seed, x.dtype(), x.device()).value);
}

StudyRows in_float32(const StudyRows& rows) {
  const auto converted = [](const Tensor& x) { return cast(x, DType::float32); };
  return {converted(rows.q), converted(rows.k), converted(rows.v), converted(rows.dy), rows.layout};
}

}  // namespace

double angle_between(std::span<const double> a, std::span<const double> b) {
  const double lengths = std::sqrt(product(a, a) * product(b, b));
  return lengths > 0 ? std::acos(std::clamp(product(a, b) / lengths, -1.0, 1.0)) : std::numbers::pi / 2;
}

ErrorStudy::ErrorStudy(const StudyRows& rows, int bits, BernoulliGradient gradient)
    : rows_(rows),
      bits_(bits),
      gradient_(gradient),
      probe_(probe_like(rows.v)),
      step_(zeros({1}, DType::int32, rows.v.device())),
      expected_(results_of(in_float32(rows), cast(probe_, DType::float32),
                           [&](const Tensor& q, const Tensor& k, const Tensor& v) {
                             return bernoulli_expectation(q, k, v, rows.layout, bits, gradient);
                           })) {}

ErrorStudy::Results ErrorStudy::results_of(const StudyRows& rows, const Tensor& probe, const Attend& attend) {
  const Tensor q = leaf(rows.q), k = leaf(rows.k), v = leaf(rows.v);
  const Tensor y = attend(q, k, v);
  backward(std::span(&y, 1), std::span(&rows.dy, 1));
  const NoGradientScope no_gradient;
  return {y.to_vector<double>(), gradient_of(q).to_vector<double>(), gradient_of(k).to_vector<double>(),
          gradient_of(v).to_vector<double>(), attend(rows.q, rows.k, probe).to_vector<double>()};
}

ErrorFigures ErrorStudy::measure(HashFamily family, int hashes, int draws) const {
  std::vector<double> angle, empty, weights, scale, output, dq, dk, dv;
  const auto width = static_cast<std::size_t>(rows_.v.size(-1));
  for (int draw = 0; draw < draws; ++draw) {
    const RandomStream stream{stream_key(static_cast<std::uint64_t>(draw), "error.hash"),
                              reinterpret_cast<const std::uint32_t*>(step_.address())};
    const Results sampled = results_of(rows_, probe_, [&](const Tensor& q, const Tensor& k, const Tensor& v) {
      return bernoulli_sample(q, k, v, rows_.layout, {family, hashes, bits_}, gradient_, stream);
    });
    const RowFigures rows = compare_rows(sampled.output, expected_.output, width);
    angle.push_back(rows.angle);
    empty.push_back(rows.empty);
    weights.push_back(relative_error(sampled.probed, expected_.probed));
    scale.push_back(product(sampled.probed, expected_.probed) / product(expected_.probed, expected_.probed));
    output.push_back(relative_error(sampled.output, expected_.output));
    dq.push_back(relative_error(sampled.dq, expected_.dq));
    dk.push_back(relative_error(sampled.dk, expected_.dk));
    dv.push_back(relative_error(sampled.dv, expected_.dv));
  }
  return {spread_of(angle),  spread_of(empty), spread_of(weights), spread_of(scale),
          spread_of(output), spread_of(dq),    spread_of(dk),      spread_of(dv)};
}

}  // namespace tern::app
