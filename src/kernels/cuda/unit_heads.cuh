// Rows of a few heads at a time, scaled to length one in a work area: for mechanisms that need no scaled rows
// of all heads at once.
#pragma once

#include "kernels/cuda/heads.cuh"
#include "kernels/layer_norm.h"

namespace tern::kernels {

/// Work area for the scaled rows of up to `heads` heads, and their lengths. With two `parts` a second row of
/// the same width lies beside each of them, for the caller.
template <class T>
class UnitHeads {
 public:
  using A = Accumulate<T>;

  UnitHeads(Cuda& cuda, std::int64_t tokens, int heads, int width, int parts = 1)
      : parts_(parts), rows_(cuda, tokens * heads * parts * width), norm_(cuda, tokens * heads) {}

  static std::int64_t bytes_of_head(std::int64_t tokens, int width) {
    return tokens * (width * static_cast<std::int64_t>(sizeof(T)) + static_cast<std::int64_t>(sizeof(A)));
  }

  /// The rows x, scaled. Holds until the next call.
  UnitRows<T> scale(Cuda& cuda, const Heads<const T>& x) const {
    const Heads<T> y = rows(x, 0);
    const Heads<A> norm = packed_like(x, norm_.data(), 1);
    unit_rows_forward<T>(cuda, x, y, norm);
    return {read_only(y), read_only(norm)};
  }
  /// The gradient of the rows that y was scaled from. Holds until the next call.
  Heads<const T> pass_scaling(Cuda& cuda, const UnitRows<T>& y, const Heads<const T>& dy) const {
    const Heads<T> dx = rows(dy, 0);
    unit_rows_backward<T>(cuda, y, dy, dx);
    return read_only(dx);
  }
  /// Rows number `part` of each token and head of x.
  Heads<T> rows(const Heads<const T>& x, int part) const {
    Heads<T> rows = packed_like(x, rows_.data() + part * x.width, parts_ * x.width);
    rows.width = x.width;
    return rows;
  }

 private:
  int parts_;
  Scratch<T> rows_;
  Scratch<A> norm_;
};

/// The same heads of rows and lengths.
template <class T>
UnitRows<T> heads_from(const UnitRows<T>& x, int first, int count) {
  return {heads_from(x.rows, first, count), heads_from(x.norm, first, count)};
}

}  // namespace tern::kernels
