// Element-wise transfers between any strides and number types on the host: copy, accumulate, clear.
#include <algorithm>

#include "base/parallel.h"
#include "core/accumulate.h"
#include "tern/tensor.h"

namespace tern {
namespace {

template <class Body>
void with_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::float32:
      return body(float{});
    case DType::float64:
      return body(double{});
    case DType::bfloat16:
      return body(bfloat16{});
    case DType::uint8:
      return body(std::uint8_t{});
    case DType::uint16:
      return body(std::uint16_t{});
    case DType::int32:
      return body(std::int32_t{});
    case DType::int64:
      return body(std::int64_t{});
  }
}

template <class Target, class Source>
Target convert(Source value) {
  if constexpr (std::is_same_v<Source, Target>)
    return value;
  else if constexpr (std::is_same_v<Source, bfloat16>)
    return static_cast<Target>(to_float(value));
  else if constexpr (std::is_same_v<Target, bfloat16>)
    return to_bfloat16(static_cast<float>(value));
  else
    return static_cast<Target>(value);
}

/// Innermost axis split off: calls body(row index, source offset, target offset) for each row, in parallel.
template <class Body>
void for_each_row(const Tensor& source, const Tensor& target, const Body& body) {
  const int inner = source.rank() - 1;
  const std::int64_t width = inner >= 0 ? source.shape()[inner] : 1;
  const std::int64_t rows = width == 0 ? 0 : source.count() / width;
  parallel_for(rows, std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(width, 1)),
               [&](std::int64_t row) {
                 std::int64_t from = 0, to = 0, rest = row;
                 for (int axis = inner - 1; axis >= 0; --axis) {
                   const std::int64_t index = rest % source.shape()[axis];
                   rest /= source.shape()[axis];
                   from += index * source.strides()[axis];
                   to += index * target.strides()[axis];
                 }
                 body(width, from, to);
               });
}

template <class Source, class Target, class Combine>
void transfer(const Tensor& source, const Tensor& target, const Combine& combine) {
  const Source* from = source.data<Source>();
  Target* to = target.data<Target>();
  const int inner = source.rank() - 1;
  const std::int64_t source_step = inner >= 0 ? source.strides()[inner] : 1;
  const std::int64_t target_step = inner >= 0 ? target.strides()[inner] : 1;
  for_each_row(source, target, [&](std::int64_t width, std::int64_t source_offset, std::int64_t target_offset) {
    const Source* x = from + source_offset;
    Target* y = to + target_offset;
    if (source_step == 1 && target_step == 1) {
      for (std::int64_t i = 0; i < width; ++i) combine(y[i], x[i]);
    } else {
      for (std::int64_t i = 0; i < width; ++i) combine(y[i * target_step], x[i * source_step]);
    }
  });
}

}  // namespace

void copy(const Tensor& source, const Tensor& target) {
  require(source.shape() == target.shape(), "copy: shapes must agree, got {} and {}", source.shape(),
          target.shape());
  with_type(source.dtype(), [&]<class Source>(Source) {
    with_type(target.dtype(), [&]<class Target>(Target) {
      transfer<Source, Target>(source, target, [](Target& y, Source x) { y = convert<Target>(x); });
    });
  });
}

void accumulate(const Tensor& source, const Tensor& target) {
  ensure(source.shape() == target.shape() && source.dtype() == target.dtype(), "accumulate: {} {} into {} {}",
         source.dtype(), source.shape(), target.dtype(), target.shape());
  with_type(source.dtype(), [&]<class T>(T) {
    if constexpr (std::is_same_v<T, bfloat16>)
      transfer<T, T>(source, target, [](T& y, T x) { y = to_bfloat16(to_float(y) + to_float(x)); });
    else
      transfer<T, T>(source, target, [](T& y, T x) { y = static_cast<T>(y + x); });
  });
}

void clear(const Tensor& target) {
  ensure(target.is_contiguous(), "clear: shape {} with strides {}", target.shape(), target.strides());
  std::memset(target.address(), 0, static_cast<std::size_t>(target.count()) * size_of(target.dtype()));
}

}  // namespace tern
