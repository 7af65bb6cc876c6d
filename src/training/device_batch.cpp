#include "training/device_batch.h"

#include <algorithm>

namespace tern {
namespace {

constexpr std::int64_t least_granularity = 1024;
constexpr std::size_t alignment = 256;  // kernels read 16 bytes at once

/// First byte of each array.
struct Places {
  std::size_t tokens, position, token_sample, offsets, order, sample, labels, targets, end;
};

Places places_of(const BatchShape& shape) {
  std::size_t next = 0;
  const auto place = [&next](std::int64_t count, std::size_t size) {
    const std::size_t begin = next;
    next += (static_cast<std::size_t>(count) * size + alignment - 1) / alignment * alignment;
    return begin;
  };
  Places at{};
  at.tokens = place(shape.capacity, 4);
  at.position = place(shape.capacity, 4);
  at.token_sample = place(shape.capacity, 8);
  at.offsets = place(shape.sequences + 1, 4);
  at.order = place(shape.sequences, 4);
  at.sample = place(shape.sequences, 8);
  at.labels = place(shape.labels, 4);
  at.targets = place(shape.targets, 4);
  at.end = next;
  return at;
}

template <class T>
void put(const std::vector<T>& values, std::byte* target) {
  if (!values.empty()) std::memcpy(target, values.data(), values.size() * sizeof(T));
}

}  // namespace

std::int64_t token_capacity(std::int64_t tokens) {
  std::int64_t granularity = least_granularity;
  while (granularity * 32 <= tokens) granularity *= 2;
  return std::max<std::int64_t>(1, (tokens + granularity - 1) / granularity) * granularity;
}

BatchShape shape_of(const data::Batch& batch) {
  BatchShape shape;
  shape.capacity = token_capacity(static_cast<std::int64_t>(batch.tokens.size()));
  shape.sequences = batch.sequences();
  shape.labels = static_cast<std::int64_t>(batch.labels.size());
  shape.targets = static_cast<std::int64_t>(batch.targets.size());
  shape.padded_length = batch.padded_length;
  for (std::size_t s = 1; s < batch.offsets.size(); ++s)
    shape.has_empty_sequence |= batch.offsets[s] == batch.offsets[s - 1];
  return shape;
}

std::size_t packed_bytes(const BatchShape& shape) { return places_of(shape).end; }

void pack(const data::Batch& batch, const BatchShape& shape, std::byte* target) {
  const LayoutArrays arrays =
      arrange_sequences(batch.offsets, batch.position, batch.sample, shape.padded_length, shape.capacity);
  const Places at = places_of(shape);
  put(batch.tokens, target + at.tokens);
  const std::size_t used = batch.tokens.size() * sizeof(std::int32_t),
                    all = static_cast<std::size_t>(shape.capacity) * sizeof(std::int32_t);
  std::memset(target + at.tokens + used, 0, all - used);
  put(arrays.position, target + at.position);
  put(arrays.token_sample, target + at.token_sample);
  put(arrays.offsets, target + at.offsets);
  put(arrays.order, target + at.order);
  put(arrays.sample, target + at.sample);
  put(batch.labels, target + at.labels);
  put(batch.targets, target + at.targets);
}

DeviceBatch unpacked(const BatchShape& shape, const std::shared_ptr<Storage>& block) {
  const Places at = places_of(shape);
  const auto array = [&block](std::size_t place, std::int64_t count, DType dtype) {
    return Tensor({count}, {1}, static_cast<std::int64_t>(place / size_of(dtype)), dtype, block);
  };
  DeviceBatch batch;
  batch.tokens = array(at.tokens, shape.capacity, DType::int32);
  batch.labels = array(at.labels, shape.labels, DType::int32);
  batch.targets = array(at.targets, shape.targets, DType::float32);
  batch.layout.offsets = array(at.offsets, shape.sequences + 1, DType::int32);
  batch.layout.position = array(at.position, shape.capacity, DType::int32);
  batch.layout.sample = array(at.sample, shape.sequences, DType::int64);
  batch.layout.order = array(at.order, shape.sequences, DType::int32);
  batch.layout.token_sample = array(at.token_sample, shape.capacity, DType::int64);
  batch.layout.longest = std::min(shape.padded_length, shape.capacity);
  batch.layout.shortest = shape.has_empty_sequence ? 0 : 1;
  batch.layout.padded_length = shape.padded_length;
  return batch;
}

DeviceBatch host_batch(const data::Batch& batch) {
  return {from_vector(batch.tokens, {static_cast<std::int64_t>(batch.tokens.size())}),
          make_layout(batch.offsets, batch.position, batch.sample, batch.padded_length),
          from_vector(batch.labels, {static_cast<std::int64_t>(batch.labels.size())}),
          from_vector(batch.targets, {static_cast<std::int64_t>(batch.targets.size())})};
}

}  // namespace tern
