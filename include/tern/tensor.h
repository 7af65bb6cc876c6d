// Tensors: typed, strided views of reference-counted storage on one device, with a place on the tape.
#pragma once

#include <array>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "tern/device.h"
#include "tern/error.h"

namespace tern {

/// The DType of a C++ type; any other type does not compile.
template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>)
    return DType::float32;
  else if constexpr (std::is_same_v<T, double>)
    return DType::float64;
  else if constexpr (std::is_same_v<T, bfloat16>)
    return DType::bfloat16;
  else if constexpr (std::is_same_v<T, std::uint8_t>)
    return DType::uint8;
  else if constexpr (std::is_same_v<T, std::uint16_t>)
    return DType::uint16;
  else if constexpr (std::is_same_v<T, std::int32_t>)
    return DType::int32;
  else if constexpr (std::is_same_v<T, std::int64_t>)
    return DType::int64;
  else
    static_assert(sizeof(T) == 0, "no DType for this C++ type");
}

/// Up to six extents (or strides).
class Shape {
 public:
  static constexpr int max_rank = 6;
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents);
  explicit Shape(std::span<const std::int64_t> extents);
  int rank() const { return rank_; }
  std::int64_t operator[](int axis) const { return extents_[static_cast<std::size_t>(axis)]; }
  std::int64_t& operator[](int axis) { return extents_[static_cast<std::size_t>(axis)]; }
  /// Product of the extents; throws Error(failed) where no 64-bit number holds it.
  std::int64_t count() const;
  const std::int64_t* begin() const { return extents_.data(); }
  const std::int64_t* end() const { return extents_.data() + rank_; }
  bool operator==(const Shape& other) const;

 private:
  std::array<std::int64_t, max_rank> extents_{};
  int rank_ = 0;
};
std::ostream& operator<<(std::ostream& out, const Shape& shape);

class Storage;
struct Node;

/// Where a tensor comes from on the tape: output number `output` of `node`. Empty for constants.
struct Edge {
  std::shared_ptr<Node> node;
  int output = 0;
};

/// A view of storage. Copies share the storage; no function changes a tensor that it was not told to write.
class Tensor {
 public:
  Tensor() = default;
  Tensor(Shape shape, Shape strides, std::int64_t offset, DType dtype, std::shared_ptr<Storage> storage);

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }
  int rank() const { return shape_.rank(); }
  /// Extent of `axis`, which must exist; negative axes count from the end.
  std::int64_t size(int axis) const { return shape_[axis < 0 ? axis + rank() : axis]; }
  std::int64_t count() const { return shape_.count(); }
  DType dtype() const { return dtype_; }
  Device device() const;
  bool is_contiguous() const;
  /// Pointer to the first element; T must be the C++ type of dtype().
  template <class T>
  T* data() const {
    check_type(dtype_of<std::remove_const_t<T>>());
    return reinterpret_cast<T*>(address());
  }
  std::byte* address() const;
  /// True while no other tensor shares the storage.
  bool is_sole_owner() const { return storage_.use_count() == 1; }

  /// The same elements under another shape of equal count; the tensor must be contiguous. Not recorded on the
  /// tape.
  Tensor reshaped(Shape shape) const;
  /// `length` entries of `axis` from `start`. Not recorded on the tape.
  Tensor narrowed(int axis, std::int64_t start, std::int64_t length) const;
  /// Axes in the order `axes`. Not recorded on the tape.
  Tensor permuted(std::span<const int> axes) const;
  /// Any strided view of the same storage; `offset` counts elements from this tensor's first. Not recorded.
  Tensor viewed(Shape shape, Shape strides, std::int64_t offset = 0) const;

  /// True where both see one storage.
  bool shares_storage_with(const Tensor& other) const { return storage_ == other.storage_; }
  std::int64_t offset() const { return offset_; }

  /// The same data as a constant.
  Tensor detach() const;
  bool requires_gradient() const { return edge_.node != nullptr; }
  const Edge& edge() const { return edge_; }
  void set_edge(Edge edge) { edge_ = std::move(edge); }

  /// Host copy of all elements, in row-major order.
  template <class T>
  std::vector<T> to_vector() const;
  /// The only element of a one-element tensor, as double.
  double item() const;

 private:
  void check_type(DType asked) const;

  std::shared_ptr<Storage> storage_;
  Shape shape_, strides_;
  std::int64_t offset_ = 0;
  DType dtype_ = DType::float32;
  Edge edge_;
};

Shape contiguous_strides(const Shape& shape);

/// Uninitialized memory. Throws Error(failed) when there is not enough of it.
Tensor empty(const Shape& shape, DType dtype, Device device = {});
Tensor empty_like(const Tensor& x);
Tensor zeros(const Shape& shape, DType dtype, Device device = {});
Tensor full(const Shape& shape, double value, DType dtype, Device device = {});
/// Copies host values, which must be shape.count() many.
template <class T>
Tensor from_vector(const std::vector<T>& values, const Shape& shape, Device device = {});
/// Writes all elements of `source` to `target`: equal shapes, any strides, any number types, any devices.
void copy(const Tensor& source, const Tensor& target);

template <class T>
std::vector<T> Tensor::to_vector() const {
  std::vector<T> out(static_cast<std::size_t>(count()));
  Tensor host = empty(shape_, dtype_of<T>());
  copy(*this, host);
  if (!out.empty()) std::memcpy(out.data(), host.address(), out.size() * sizeof(T));
  return out;
}

template <class T>
Tensor from_vector(const std::vector<T>& values, const Shape& shape, Device device) {
  require(static_cast<std::int64_t>(values.size()) == shape.count(),
          "from_vector: shape {} needs {} values, got {}", shape, shape.count(), values.size());
  Tensor host = empty(shape, dtype_of<T>());
  if (!values.empty()) std::memcpy(host.address(), values.data(), values.size() * sizeof(T));
  if (device == Device{}) return host;
  Tensor out = empty(shape, host.dtype(), device);
  copy(host, out);
  return out;
}

}  // namespace tern
