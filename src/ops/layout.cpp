#include <algorithm>
#include <numeric>

#include "ops/views.h"

namespace tern {
namespace {

Shape without_axis(const Shape& shape, int axis) {
  std::vector<std::int64_t> kept(shape.begin(), shape.end());
  kept.erase(kept.begin() + axis);
  return Shape(kept);
}

/// The view of `whole`'s shape whose entries along `axis` are `parts`, where they already lie like that in one
/// storage (as attention kernels write them); undefined otherwise.
Tensor joined_view(std::span<const Tensor> parts, const Shape& whole, int axis) {
  Shape strides = whole;
  for (int i = 0, from = 0; i < whole.rank(); ++i) strides[i] = i == axis ? 0 : parts[0].strides()[from++];
  strides[axis] = parts.size() > 1 ? parts[1].offset() - parts[0].offset() : 0;
  for (std::size_t i = 0; i < parts.size(); ++i)
    if (!parts[i].shares_storage_with(parts[0]) || parts[i].strides() != parts[0].strides() ||
        parts[i].offset() != parts[0].offset() + static_cast<std::int64_t>(i) * strides[axis])
      return {};
  const Tensor view = parts[0].viewed(whole, strides);
  return view.is_contiguous() ? view : Tensor();
}

}  // namespace

Tensor contiguous(const Tensor& x) {
  if (x.is_contiguous()) return x;
  return record("contiguous", contiguous_constant(x), {x},
                [](const Tensor& dy, GradientSink& sink) { sink.add(0, dy); });
}

Tensor reshape(const Tensor& x, const Shape& shape) {
  const Tensor source = contiguous(x);
  return record("reshape", source.reshaped(shape), {source},
                [from = x.shape()](const Tensor& dy, GradientSink& sink) {
                  sink.add(0, contiguous_constant(dy).reshaped(from));
                });
}

Tensor permute(const Tensor& x, const std::vector<int>& axes) {
  const Tensor view = x.permuted(axes);
  std::vector<int> inverse(axes.size());
  for (std::size_t i = 0; i < axes.size(); ++i)
    inverse[static_cast<std::size_t>(axes[i])] = static_cast<int>(i);
  return record("permute", view, {x},
                [inverse](const Tensor& dy, GradientSink& sink) { sink.add(0, dy.permuted(inverse)); });
}

Tensor transpose(const Tensor& x, int first, int second) {
  std::vector<int> axes(static_cast<std::size_t>(x.rank()));
  std::iota(axes.begin(), axes.end(), 0);
  std::swap(axes[static_cast<std::size_t>(positive_axis("transpose", x, first))],
            axes[static_cast<std::size_t>(positive_axis("transpose", x, second))]);
  return permute(x, axes);
}

Tensor slice(const Tensor& x, int axis, std::int64_t start, std::int64_t length) {
  axis = positive_axis("slice", x, axis);
  return record("slice", x.narrowed(axis, start, length), {x},
                [axis, start, length, shape = x.shape()](const Tensor& dy, GradientSink& sink) {
                  const Tensor dx = zeros(shape, dy.dtype(), dy.device());
                  copy(dy, dx.narrowed(axis, start, length));
                  sink.add(0, dx);
                });
}

std::vector<Tensor> split(const Tensor& x, int axis, const std::vector<std::int64_t>& lengths) {
  axis = positive_axis("split", x, axis);
  require(std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0}) == x.size(axis),
          "split: the lengths must add up to axis {} of shape {}", axis, x.shape());
  std::vector<Tensor> parts;
  std::int64_t start = 0;
  for (const std::int64_t length : lengths) {
    parts.push_back(x.detach().narrowed(axis, start, length));
    start += length;
  }
  return record(
      "split", parts, std::span(&x, 1),
      [axis, lengths, shape = x.shape()](std::span<const Tensor> dy, GradientSink& sink) {
        const auto any = std::find_if(dy.begin(), dy.end(), [](auto& part) { return part.defined(); });
        const bool is_complete = std::all_of(dy.begin(), dy.end(), [](auto& part) { return part.defined(); });
        const Tensor dx =
            is_complete ? empty(shape, any->dtype(), any->device()) : zeros(shape, any->dtype(), any->device());
        std::int64_t first = 0;
        for (std::size_t i = 0; i < lengths.size(); first += lengths[i++])
          if (dy[i].defined()) copy(dy[i], dx.narrowed(axis, first, lengths[i]));
        sink.add(0, dx);
      });
}

std::vector<Tensor> unstack(const Tensor& x, int axis) {
  axis = positive_axis("unstack", x, axis);
  std::vector<Tensor> parts;
  for (std::int64_t i = 0; i < x.size(axis); ++i)
    parts.push_back(x.detach().viewed(without_axis(x.shape(), axis), without_axis(x.strides(), axis),
                                      i * x.strides()[axis]));
  return record("unstack", parts, std::span(&x, 1),
                [axis, shape = x.shape()](std::span<const Tensor> dy, GradientSink& sink) {
                  bool is_complete = true;
                  const Tensor* any = nullptr;
                  for (const Tensor& part : dy) {
                    if (part.defined()) any = &part;
                    is_complete &= part.defined();
                  }
                  Tensor dx = is_complete ? joined_view(dy, shape, axis) : Tensor();
                  if (!dx.defined()) {
                    dx = zeros(shape, any->dtype(), any->device());
                    for (std::size_t i = 0; i < dy.size(); ++i)
                      if (dy[i].defined())
                        copy(dy[i], dx.viewed(dy[i].shape(), without_axis(dx.strides(), axis),
                                              static_cast<std::int64_t>(i) * dx.strides()[axis]));
                  }
                  sink.add(0, dx);
                });
}

Tensor concatenate(const std::vector<Tensor>& parts, int axis) {
  require(!parts.empty(), "concatenate: needs at least one tensor");
  axis = positive_axis("concatenate", parts.front(), axis);
  Shape shape = parts.front().shape();
  shape[axis] = 0;
  for (const Tensor& part : parts) {
    Shape expected = shape;
    if (part.rank() == shape.rank()) expected[axis] = part.size(axis);
    require(part.shape() == expected && part.dtype() == parts.front().dtype(),
            "concatenate: all parts must agree but for axis {}, got {} and {}", axis, parts.front().shape(),
            part.shape());
    require_one_device("concatenate", {{"one part", parts.front()}, {"another", part}});
    shape[axis] += part.size(axis);
  }
  const Tensor out = empty(shape, parts.front().dtype(), parts.front().device());
  std::vector<std::int64_t> lengths;
  std::int64_t start = 0;
  for (const Tensor& part : parts) {
    copy(part, out.narrowed(axis, start, part.size(axis)));
    lengths.push_back(part.size(axis));
    start += part.size(axis);
  }
  return record("concatenate", std::vector{out}, parts,
                [axis, lengths](std::span<const Tensor> dy, GradientSink& sink) {
                  std::int64_t first = 0;
                  for (std::size_t i = 0; i < lengths.size(); first += lengths[i++])
                    sink.add(static_cast<int>(i), dy[0].narrowed(axis, first, lengths[i]));
                })
      .front();
}

Tensor expand(const Tensor& x, const Shape& shape) {
  const int added = shape.rank() - x.rank();
  bool is_suffix = added >= 0;
  for (int axis = 0; is_suffix && axis < x.rank(); ++axis) is_suffix = shape[added + axis] == x.size(axis);
  require(is_suffix, "expand: {} must end with the shape {}", shape, x.shape());
  Shape strides = shape;
  for (int axis = 0; axis < shape.rank(); ++axis) strides[axis] = axis < added ? 0 : x.strides()[axis - added];
  return record("expand", x.viewed(shape, strides), {x}, [added](const Tensor& dy, GradientSink& sink) {
    Tensor total = dy;
    for (int axis = 0; axis < added; ++axis) total = sum(total, 0);
    sink.add(0, total);
  });
}

}  // namespace tern
