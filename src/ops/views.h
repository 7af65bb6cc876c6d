// From tensors to what kernels see; every check of contiguity and type that several ops share.
#pragma once

#include <limits>

#include "core/accumulate.h"
#include "core/dispatch.h"
#include "kernels/dropout.h"
#include "kernels/view.h"
#include "tern/ops.h"

namespace tern {

/// The last axis as width, all others as rows; x must be contiguous.
template <class T>
kernels::Rows<T> rows_of(const Tensor& x) {
  ensure(x.is_contiguous(), "rows_of: shape {} with strides {}", x.shape(), x.strides());
  const std::int64_t width = x.rank() == 0 ? 1 : x.size(-1);
  return {x.data<T>(), width == 0 ? 0 : x.count() / width, width, width};
}

/// [tokens, heads, width] with unit stride along the width.
template <class T>
kernels::Heads<T> heads_of(const Tensor& x) {
  constexpr std::int64_t largest = std::numeric_limits<std::int32_t>::max();
  ensure(
      x.rank() == 3 && (x.strides()[2] == 1 || x.size(2) <= 1) && x.size(1) <= largest && x.size(2) <= largest,
      "heads_of: shape {} with strides {}", x.shape(), x.strides());
  return {x.data<T>(),    x.size(0),     static_cast<int>(x.size(1)), static_cast<int>(x.size(2)),
          x.strides()[0], x.strides()[1]};
}

/// x with unit stride along its last axis: itself, or a contiguous copy.
inline Tensor with_unit_width(const Tensor& x) {
  if (x.strides()[x.rank() - 1] == 1 || x.size(-1) == 1) return x.detach();
  const Tensor out = empty_like(x);
  copy(x, out);
  return out;
}

inline Tensor contiguous_constant(const Tensor& x) {
  if (x.is_contiguous()) return x.detach();
  const Tensor out = empty_like(x);
  copy(x, out);
  return out;
}

inline kernels::Sequences sequences_of(const SequenceLayout& layout) {
  return {layout.sequences(),
          layout.offsets.data<std::int32_t>(),
          layout.position.data<std::int32_t>(),
          layout.sample.data<std::int64_t>(),
          layout.order.data<std::int32_t>(),
          layout.tokens(),
          layout.longest};
}

inline kernels::DropoutMask mask_of(const RowCoordinates& rows, const DropoutOptions& options) {
  ensure(rows.sample.is_contiguous() && rows.position.is_contiguous(),
         "dropout: coordinates must be contiguous");
  return {static_cast<float>(options.rate), options.stream, rows.sample.data<std::int64_t>(),
          rows.position.data<std::int32_t>()};
}

/// The element pointer, or null for an undefined tensor.
template <class T>
T* data_or_null(const Tensor& x) {
  return x.defined() ? x.data<T>() : nullptr;
}

/// An uninitialized tensor for sums of data of x's type.
inline Tensor empty_sums(const Shape& shape, const Tensor& x) {
  return empty(shape, accumulate_type(x.dtype()), x.device());
}
inline Tensor zero_sums(const Shape& shape, const Tensor& x) {
  return zeros(shape, accumulate_type(x.dtype()), x.device());
}

/// A parameter that is summed with data of x's type: a bias, a norm's weight, a table.
inline bool is_parameter_for(const Tensor& parameter, const Tensor& x) {
  return parameter.dtype() == accumulate_type(x.dtype());
}

/// Whether one gradient belongs to both.
inline bool is_same_value(const Tensor& a, const Tensor& b) {
  return a.requires_gradient() && a.edge().node == b.edge().node && a.edge().output == b.edge().output;
}

/// Where a kernel adds the gradient of the parameter `index`; undefined where nobody wants it. Two inputs of
/// one node must not be the same value.
inline Tensor gradient_sums(GradientSink& sink, int index) {
  Tensor out;
  sink.write(index, [&out](const Tensor& target, bool accumulate) {
    out = target;
    if (!accumulate) clear(target);
  });
  return out;
}

inline void require_floating(const char* op, const Tensor& x) {
  require(x.defined() && is_floating(x.dtype()), "{}: the input must be floating, got {}", op,
          x.defined() ? std::string(name(x.dtype())) : "an undefined tensor");
}

/// An input of an op under the name that its page gives it.
struct NamedInput {
  const char* name;
  const Tensor& tensor;
};
/// The first input must be there; others may be absent. A layout counts as its offsets.
inline void require_one_device(const char* op, std::initializer_list<NamedInput> inputs) {
  const NamedInput& first = *inputs.begin();
  const Device expected = first.tensor.device();
  for (const NamedInput& input : inputs) {
    const Device found = input.tensor.defined() ? input.tensor.device() : expected;
    require(found == expected,
            "{}: all inputs must lie on one device, got {} on {} and {} on {}; copy one to the other's device",
            op, first.name, expected, input.name, found);
  }
}

inline void require_rate(const char* op, double rate) {
  require(rate >= 0 && rate < 1, "{}: the rate must lie in [0, 1), got {}", op, rate);
}

/// Axis counted from the start; throws when it does not exist.
inline int positive_axis(const char* op, const Tensor& x, int axis) {
  require(axis >= -x.rank() && axis < x.rank(), "{}: axis {} does not exist in shape {}", op, axis, x.shape());
  return axis < 0 ? axis + x.rank() : axis;
}

}  // namespace tern
