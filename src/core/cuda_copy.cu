// Element-wise transfers on a GPU. Deterministic. Memory-bound: axes that lie next to each other in both arrays
// are merged; what is left moves in the largest words that divide pointers, strides and the last axis, or,
// where numbers are converted, in packs of up to 16 bytes.
#include <algorithm>
#include <utility>

#include "base/cuda.h"
#include "core/cuda_copy.h"
#include "core/number_types.h"

namespace tern {
namespace {

constexpr int threads_per_block = 256;
constexpr int max_rank = Shape::max_rank;

/// Extents and strides of both arrays, outermost axis first.
struct Axes {
  int rank = 0;
  std::int64_t extents[max_rank], source[max_rank], target[max_rank];
};

/// The same pairs of elements with as few axes as possible, in the order of the target's strides.
Axes merged_axes(const StridedCopy& work) {
  int order[max_rank];
  for (int axis = 0; axis < work.rank; ++axis) order[axis] = axis;
  std::stable_sort(order, order + work.rank,
                   [&](int a, int b) { return work.target.strides[a] > work.target.strides[b]; });
  Axes axes;
  for (int place = 0; place < work.rank; ++place) {
    const int axis = order[place], outer = axes.rank - 1;
    const std::int64_t extent = work.extents[axis], source = work.source.strides[axis],
                       target = work.target.strides[axis];
    if (extent == 1) continue;
    const bool joins =
        outer >= 0 && axes.source[outer] == extent * source && axes.target[outer] == extent * target;
    const int to = joins ? outer : axes.rank++;
    axes.extents[to] = joins ? axes.extents[outer] * extent : extent;
    axes.source[to] = source;
    axes.target[to] = target;
  }
  if (axes.rank == 0) axes = {1, {1}, {1}, {1}};
  return axes;
}

/// Whether `items` neighbours of the last axis may move together at the given alignment of the pointers.
bool moves_in_groups(const Axes& axes, std::int64_t items) {
  const int last = axes.rank - 1;
  if (axes.source[last] != 1 || axes.target[last] != 1 || axes.extents[last] % items != 0) return false;
  for (int axis = 0; axis < last; ++axis)
    if (axes.source[axis] % items != 0 || axes.target[axis] % items != 0) return false;
  return true;
}
bool is_aligned(const void* pointer, std::int64_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % static_cast<std::uintptr_t>(bytes) == 0;
}

/// Axes of groups of `items` elements; strides still count elements.
Axes grouped_axes(Axes axes, std::int64_t items) {
  const int last = axes.rank - 1;
  axes.extents[last] /= items;
  axes.source[last] *= items;
  axes.target[last] *= items;
  return axes;
}

std::int64_t count_of(const Axes& axes) {
  std::int64_t count = 1;
  for (int axis = 0; axis < axes.rank; ++axis) count *= axes.extents[axis];
  return count;
}

unsigned blocks_for(const Cuda& cuda, std::int64_t tasks) {
  return static_cast<unsigned>(std::min<std::int64_t>((tasks + threads_per_block - 1) / threads_per_block,
                                                      std::int64_t{cuda.multiprocessors} * 16));
}

struct Offsets {
  std::int64_t source, target;
};
/// Where element `index` of the axes' row-major order lies. Index is 32 bits wide where the count allows: its
/// divisions are several times cheaper.
template <class Index>
__device__ __forceinline__ Offsets offsets_of(const Axes& axes, Index index) {
  Offsets offsets{0, 0};
#pragma unroll
  for (int axis = max_rank - 1; axis > 0; --axis) {
    if (axis >= axes.rank) continue;
    const Index extent = static_cast<Index>(axes.extents[axis]), outer = index / extent;
    const auto place = static_cast<std::int64_t>(index - outer * extent);
    offsets.source += place * axes.source[axis];
    offsets.target += place * axes.target[axis];
    index = outer;
  }
  offsets.source += static_cast<std::int64_t>(index) * axes.source[0];
  offsets.target += static_cast<std::int64_t>(index) * axes.target[0];
  return offsets;
}

/// Runs body(offsets) on the device for all elements of the axes.
template <class Index, class Body>
__global__ void __launch_bounds__(threads_per_block) transfer_kernel(Axes axes, std::int64_t count, Body body) {
  const std::int64_t stride = std::int64_t{gridDim.x} * threads_per_block;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads_per_block + threadIdx.x; i < count; i += stride)
    body(offsets_of<Index>(axes, static_cast<Index>(i)));
}

template <class Body>
void transfer(Cuda& cuda, const Axes& axes, const Body& body) {
  const std::int64_t count = count_of(axes);
  if (count < std::int64_t{1} << 32)
    transfer_kernel<std::uint32_t>
        <<<blocks_for(cuda, count), threads_per_block, 0, cuda.stream>>>(axes, count, body);
  else
    transfer_kernel<std::int64_t>
        <<<blocks_for(cuda, count), threads_per_block, 0, cuda.stream>>>(axes, count, body);
  check_launch("copy");
}

/// Rounds to nearest, ties to even, as on the host.
__device__ __forceinline__ bfloat16 round_to_bfloat16(float value) {
  bfloat16 rounded;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(value));
  return rounded;
}

template <class Target, class Source>
__device__ __forceinline__ Target convert(Source value) {
  if constexpr (std::is_same_v<Source, Target>)
    return value;
  else if constexpr (std::is_same_v<Source, bfloat16>)
    return static_cast<Target>(__uint_as_float(std::uint32_t{value.bits} << 16));
  else if constexpr (std::is_same_v<Target, bfloat16>)
    return round_to_bfloat16(static_cast<float>(value));
  else
    return static_cast<Target>(value);
}

template <class Target, class Source>
__device__ __forceinline__ Target sum(Target y, Source x) {
  if constexpr (std::is_same_v<Target, bfloat16>)
    return convert<bfloat16>(convert<float>(y) + convert<float>(x));
  else
    return static_cast<Target>(y + convert<Target>(x));
}

/// Words that are not looked into.
template <class Word>
struct MoveWords {
  const Word* source;
  Word* target;
  __device__ void operator()(Offsets at) const { target[at.target] = source[at.source]; }
};

template <class T, int items>
struct alignas(sizeof(T) * items) Group {
  T item[items];
};

/// Floating numbers to floating numbers, `items` at once.
template <class Target, class Source, int items>
struct MoveNumbers {
  const Source* source;
  Target* target;
  bool accumulate;
  __device__ void operator()(Offsets at) const {
    const auto x = *reinterpret_cast<const Group<Source, items>*>(source + at.source);
    auto* const to = reinterpret_cast<Group<Target, items>*>(target + at.target);
    Group<Target, items> y;
    if (accumulate) y = *to;
#pragma unroll
    for (int e = 0; e < items; ++e)
      y.item[e] = accumulate ? sum(y.item[e], x.item[e]) : convert<Target>(x.item[e]);
    *to = y;
  }
};

/// Any number types; the source's is looked up at run time, so that there is one instance for each target.
template <class Target>
struct MoveAny {
  const std::byte* source;
  DType source_type;
  Target* target;
  bool accumulate;
  __device__ void operator()(Offsets at) const {
    with_type(source_type, [&]<class Source>(Source) {
      const Source x = reinterpret_cast<const Source*>(source)[at.source];
      target[at.target] = accumulate ? sum(target[at.target], x) : convert<Target>(x);
    });
  }
};

/// Elements of one type, overwritten: the largest words that fit.
void copy_words(Cuda& cuda, const StridedCopy& work, const Axes& axes) {
  const auto element = static_cast<std::int64_t>(size_of(work.source.dtype));
  std::int64_t bytes = 16;
  while (bytes > element && !(moves_in_groups(axes, bytes / element) && is_aligned(work.source.data, bytes) &&
                              is_aligned(work.target.data, bytes)))
    bytes /= 2;
  Axes words = axes;  // strides and extents in words
  if (const std::int64_t items = bytes / element; items > 1) {
    words.extents[axes.rank - 1] /= items;
    for (int axis = 0; axis + 1 < axes.rank; ++axis) {
      words.source[axis] /= items;
      words.target[axis] /= items;
    }
  }
  const auto move = [&]<class Word>(Word) {
    transfer(cuda, words,
             MoveWords<Word>{reinterpret_cast<const Word*>(work.source.data),
                             reinterpret_cast<Word*>(work.target.data)});
  };
  if (bytes == 16) return move(uint4{});
  if (bytes == 8) return move(std::uint64_t{});
  if (bytes == 4) return move(std::uint32_t{});
  if (bytes == 2) return move(std::uint16_t{});
  return move(std::uint8_t{});
}

template <class Target, class Source>
void transfer_numbers(Cuda& cuda, const StridedCopy& work, const Axes& axes) {
  constexpr int items = 16 / std::max(sizeof(Target), sizeof(Source));
  const auto* source = reinterpret_cast<const Source*>(work.source.data);
  auto* target = reinterpret_cast<Target*>(work.target.data);
  if (moves_in_groups(axes, items) && is_aligned(source, items * static_cast<std::int64_t>(sizeof(Source))) &&
      is_aligned(target, items * static_cast<std::int64_t>(sizeof(Target))))
    transfer(cuda, grouped_axes(axes, items),
             MoveNumbers<Target, Source, items>{source, target, work.accumulate});
  else
    transfer(cuda, axes, MoveNumbers<Target, Source, 1>{source, target, work.accumulate});
}

__global__ void __launch_bounds__(threads_per_block)
    fill_kernel(std::byte* target, std::int64_t words, std::int64_t bytes, uint4 pattern) {
  const std::int64_t stride = std::int64_t{gridDim.x} * threads_per_block;
  const std::int64_t thread = std::int64_t{blockIdx.x} * threads_per_block + threadIdx.x;
  for (std::int64_t i = thread; i < words; i += stride) reinterpret_cast<uint4*>(target)[i] = pattern;
  for (std::int64_t i = words * 16 + thread; i < bytes; i += stride)
    target[i] = reinterpret_cast<const std::byte*>(&pattern)[i % 16];
}

}  // namespace

void copy_on_device(Cuda& cuda, const StridedCopy& work) {
  const Axes axes = merged_axes(work);
  if (count_of(axes) == 0) return;
  if (work.source.dtype == work.target.dtype && !work.accumulate) return copy_words(cuda, work, axes);
  with_type(work.target.dtype, [&]<class Target>(Target) {
    if constexpr (std::is_same_v<Target, float> || std::is_same_v<Target, double> ||
                  std::is_same_v<Target, bfloat16>) {
      if (work.source.dtype == DType::float32) return transfer_numbers<Target, float>(cuda, work, axes);
      if (work.source.dtype == DType::float64) return transfer_numbers<Target, double>(cuda, work, axes);
      if (work.source.dtype == DType::bfloat16) return transfer_numbers<Target, bfloat16>(cuda, work, axes);
    }
    transfer(cuda, axes,
             MoveAny<Target>{work.source.data, work.source.dtype, reinterpret_cast<Target*>(work.target.data),
                             work.accumulate});
  });
}

void fill_on_device(Cuda& cuda, std::byte* target, DType dtype, std::int64_t count, double value) {
  if (count == 0) return;
  const auto element = static_cast<std::int64_t>(size_of(dtype));
  std::byte pattern[16];
  with_type(dtype, [&]<class T>(T) {
    T number;
    if constexpr (std::is_same_v<T, bfloat16>)
      number = to_bfloat16(static_cast<float>(value));
    else
      number = static_cast<T>(value);
    for (std::size_t at = 0; at < sizeof pattern; at += sizeof number)
      std::memcpy(pattern + at, &number, sizeof number);
  });
  uint4 words;
  std::memcpy(&words, pattern, sizeof words);
  const std::int64_t bytes = count * element, whole = is_aligned(target, 16) ? bytes / 16 : 0;
  fill_kernel<<<blocks_for(cuda, whole + (bytes - 16 * whole)), threads_per_block, 0, cuda.stream>>>(
      target, whole, bytes, words);
  check_launch("fill");
}

}  // namespace tern
