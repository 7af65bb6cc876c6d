// Shapes, views, factories and copies.
#include "tern/tensor.h"

#include <algorithm>

#include "core/accumulate.h"
#include "core/allocator.h"

namespace tern {

Shape::Shape(std::initializer_list<std::int64_t> extents) : Shape(std::span(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const std::int64_t> extents) : rank_(static_cast<int>(extents.size())) {
  require(rank_ <= max_rank, "shape: at most {} axes, got {}", max_rank, rank_);
  std::copy(extents.begin(), extents.end(), extents_.begin());
}

std::int64_t Shape::count() const {
  std::int64_t product = 1;
  for (const std::int64_t extent : *this)
    require(!__builtin_mul_overflow(product, extent, &product), "shape {}: has too many elements", *this);
  return product;
}

bool Shape::operator==(const Shape& other) const {
  return std::equal(begin(), end(), other.begin(), other.end());
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << "[";
  for (int axis = 0; axis < shape.rank(); ++axis) out << (axis ? ", " : "") << shape[axis];
  return out << "]";
}

Shape contiguous_strides(const Shape& shape) {
  Shape strides = shape;
  std::int64_t stride = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    strides[axis] = stride;
    stride *= shape[axis];
  }
  return strides;
}

Tensor::Tensor(Shape shape, Shape strides, std::int64_t offset, DType dtype, std::shared_ptr<Storage> storage)
    : storage_(std::move(storage)), shape_(shape), strides_(strides), offset_(offset), dtype_(dtype) {}

Device Tensor::device() const { return storage_ ? storage_->device() : Device{}; }

bool Tensor::is_contiguous() const {
  std::int64_t stride = 1;
  for (int axis = rank() - 1; axis >= 0; --axis) {
    if (shape_[axis] != 1 && strides_[axis] != stride && count() != 0) return false;
    stride *= shape_[axis];
  }
  return true;
}

std::byte* Tensor::address() const {
  ensure(defined(), "an undefined tensor has no data");
  return storage_->address() + offset_ * static_cast<std::int64_t>(size_of(dtype_));
}

void Tensor::check_type(DType asked) const {
  require(asked == dtype_, "tensor: asked for {} elements of a {} tensor of shape {}; cast it first", asked,
          dtype_, shape_);
}

Tensor Tensor::viewed(Shape shape, Shape strides, std::int64_t offset) const {
  return Tensor(shape, strides, offset_ + offset, dtype_, storage_);
}

Tensor Tensor::reshaped(Shape shape) const {
  require(shape.count() == count(), "reshape: {} has {} elements, {} needs {}", shape_, count(), shape,
          shape.count());
  require(is_contiguous(),
          "reshape: the tensor of shape {} and strides {} is not contiguous; call contiguous() first", shape_,
          strides_);
  return viewed(shape, contiguous_strides(shape));
}

Tensor Tensor::narrowed(int axis, std::int64_t start, std::int64_t length) const {
  require(axis >= 0 && axis < rank() && start >= 0 && length >= 0 && start + length <= shape_[axis],
          "narrow: entries [{}, {} + {}) of axis {} do not exist in shape {}", start, start, length, axis,
          shape_);
  Shape shape = shape_;
  shape[axis] = length;
  return viewed(shape, strides_, start * strides_[axis]);
}

Tensor Tensor::permuted(std::span<const int> axes) const {
  require(static_cast<int>(axes.size()) == rank(), "permute: shape {} has {} axes, got {} indices", shape_,
          rank(), axes.size());
  Shape shape = shape_, strides = strides_;
  std::array<bool, Shape::max_rank> seen{};
  for (int axis = 0; axis < rank(); ++axis) {
    const int from = axes[static_cast<std::size_t>(axis)];
    require(from >= 0 && from < rank() && !seen[static_cast<std::size_t>(from)],
            "permute: {} is not a permutation of the {} axes", std::vector<int>(axes.begin(), axes.end()),
            rank());
    seen[static_cast<std::size_t>(from)] = true;
    shape[axis] = shape_[from];
    strides[axis] = strides_[from];
  }
  return viewed(shape, strides);
}

Tensor Tensor::detach() const { return viewed(shape_, strides_); }

double Tensor::item() const {
  require(count() == 1, "item: the tensor must hold one element, got shape {}", shape_);
  return to_vector<double>().front();
}

Tensor empty(const Shape& shape, DType dtype, Device device) {
  for (const std::int64_t extent : shape) require(extent >= 0, "empty: shape {} has a negative extent", shape);
  const auto count = static_cast<std::size_t>(shape.count());
  constexpr std::size_t address_space = std::size_t{1} << 57;
  require(count <= address_space / size_of(dtype), "empty: no memory holds {} elements of shape {}", dtype,
          shape);
  return Tensor(shape, contiguous_strides(shape), 0, dtype,
                std::make_shared<Storage>(count * size_of(dtype), device));
}

Tensor empty_like(const Tensor& x) { return empty(x.shape(), x.dtype(), x.device()); }

Tensor zeros(const Shape& shape, DType dtype, Device device) {
  Tensor out = empty(shape, dtype, device);
  clear(out);
  return out;
}

Tensor full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor out = empty(shape, dtype, device);
  fill(out, value);
  return out;
}

}  // namespace tern
