// How far sampled Bernoulli attention is from its expectation (YOSO; Zeng et al. 2021, arXiv 2111.09714).
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "tern/ops.h"

namespace tern::app {

/// Mean over hash draws, and the deviation of one draw.
struct Spread {
  double mean = 0, deviation = 0;
};

/// C is the share of hashes in which a query and a key collide, p its expectation, y = C v. Errors are
/// Frobenius norms of differences over the norm of what is expected.
struct ErrorFigures {
  Spread angle;          ///< radians between a row of y and its expectation, mean over rows; pi / 2 for y = 0
  Spread empty_rows;     ///< share of the rows of y that are 0: their query met no key
  Spread weights_error;  ///< of C, seen through standard normal values: E |(C - p) v|^2 = width |C - p|^2
  Spread weights_scale;  ///< <C v, p v> / |p v|^2 for those values: 1 where C is unbiased
  Spread output_error, dq_error, dk_error, dv_error;
};

/// Rows of length one for queries and keys, values, and the gradient of y: [tokens, heads, head_width] of one
/// type on one device.
struct StudyRows {
  Tensor q, k, v, dy;
  SequenceLayout layout;
};

/// The expected form of one set of rows, in float32, which sampled forms in the rows' own type are compared
/// with.
class ErrorStudy {
 public:
  /// Cost: sum of length^2 * heads * head_width.
  ErrorStudy(const StudyRows& rows, int bits, BernoulliGradient gradient);
  /// Figures over draws 0 ... draws - 1. Fewer hashes of a Gaussian draw are the first ones of more.
  ErrorFigures measure(HashFamily family, int hashes, int draws) const;

 private:
  /// Row-major copies in host memory.
  struct Results {
    std::vector<double> output, dq, dk, dv, probed;
  };
  using Attend = std::function<Tensor(const Tensor& q, const Tensor& k, const Tensor& v)>;
  static Results results_of(const StudyRows& rows, const Tensor& probe, const Attend& attend);

  StudyRows rows_;
  int bits_;
  BernoulliGradient gradient_;
  Tensor probe_, step_;
  Results expected_;
};

/// The angle between two vectors in radians; pi / 2 where one is 0.
double angle_between(std::span<const double> a, std::span<const double> b);

}  // namespace tern::app
