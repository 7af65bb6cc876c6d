// Element-wise transfers between any strides, number types and devices: copy, accumulate, clear.
#include <algorithm>

#include "base/cuda_memory.h"
#include "base/has_cuda.h"
#include "base/parallel.h"
#include "core/accumulate.h"
#include "core/cuda_copy.h"
#include "core/dispatch.h"
#include "core/number_types.h"
#include "tern/tensor.h"

namespace tern {
namespace {

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

/// On the host, `body(source, target)` with the C++ types of both.
template <class Body>
void with_types(const Tensor& source, const Tensor& target, const Body& body) {
  with_type(source.dtype(), [&]<class Source>(Source) {
    with_type(target.dtype(), [&]<class Target>(Target) { body(Source{}, Target{}); });
  });
}

StridedArray strided(const Tensor& x) {
  StridedArray array{x.count() == 0 ? nullptr : x.address(), x.dtype(), {}};
  std::copy(x.strides().begin(), x.strides().end(), array.strides);
  return array;
}

/// Both on one GPU.
void transfer_on_device(const Tensor& source, const Tensor& target, bool accumulate) {
  StridedCopy work{strided(source), strided(target), source.rank(), {}, accumulate};
  std::copy(source.shape().begin(), source.shape().end(), work.extents);
  if constexpr (has_cuda) copy_on_device(cuda_context(target.device().index), work);
}

/// One of the two lies on a GPU, the other in host memory.
void transfer_across(const Tensor& source, const Tensor& target) {
  const bool is_download = source.device().type == DeviceType::cuda;
  const Device gpu = is_download ? source.device() : target.device();
  const bool is_plain = source.is_contiguous() && target.is_contiguous() && source.dtype() == target.dtype();
  if (!is_plain) {  // the GPU's side gets or gives a contiguous array of the other side's number type
    const Tensor staged = empty(source.shape(), is_download ? target.dtype() : source.dtype(), gpu);
    const Tensor host = is_download ? empty(source.shape(), target.dtype()) : Tensor();
    if (is_download) {
      copy(source, staged);
      copy(staged, host);
      return copy(host, target);
    }
    const Tensor packed = empty(source.shape(), source.dtype());
    copy(source, packed);
    copy(packed, staged);
    return copy(staged, target);
  }
  if constexpr (has_cuda) {
    const auto bytes = static_cast<std::size_t>(source.count()) * size_of(source.dtype());
    copy_bytes(gpu.index, source.address(), target.address(), bytes);
    if (is_download) synchronize(gpu);
  }
}

}  // namespace

void copy(const Tensor& source, const Tensor& target) {
  require(source.shape() == target.shape(), "copy: shapes must agree, got {} and {}", source.shape(),
          target.shape());
  if (source.count() == 0) return;
  if (source.device() != target.device()) return transfer_across(source, target);
  if (source.device().type == DeviceType::cuda) return transfer_on_device(source, target, false);
  with_types(source, target, [&]<class Source, class Target>(Source, Target) {
    transfer<Source, Target>(source, target, [](Target& y, Source x) { y = convert<Target>(x); });
  });
}

void accumulate(const Tensor& source, const Tensor& target) {
  ensure(source.shape() == target.shape() && source.device() == target.device(), "accumulate: {} {} into {} {}",
         source.device(), source.shape(), target.device(), target.shape());
  if (source.count() == 0) return;
  if (source.device().type == DeviceType::cuda) return transfer_on_device(source, target, true);
  with_types(source, target, [&]<class Source, class Target>(Source, Target) {
    transfer<Source, Target>(source, target, [](Target& y, Source x) {
      if constexpr (std::is_same_v<Target, bfloat16>)
        y = to_bfloat16(to_float(y) + convert<float>(x));
      else
        y = static_cast<Target>(y + convert<Target>(x));
    });
  });
}

void clear(const Tensor& target) {
  ensure(target.is_contiguous(), "clear: shape {} with strides {}", target.shape(), target.strides());
  const std::size_t bytes = static_cast<std::size_t>(target.count()) * size_of(target.dtype());
  if constexpr (has_cuda)
    if (target.device().type == DeviceType::cuda)
      return clear_bytes(target.device().index, target.address(), bytes);
  std::memset(target.address(), 0, bytes);
}

void fill(const Tensor& target, double value) {
  ensure(target.is_contiguous(), "fill: shape {} with strides {}", target.shape(), target.strides());
  if (target.count() == 0) return;
  if constexpr (has_cuda) {
    if (target.device().type == DeviceType::cuda)
      return fill_on_device(cuda_context(target.device().index), target.address(), target.dtype(),
                            target.count(), value);
  }
  with_type(target.dtype(),
            [&]<class T>(T) { std::fill_n(target.data<T>(), target.count(), convert<T>(value)); });
}

}  // namespace tern
