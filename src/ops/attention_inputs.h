// The shape rule and the gradient buffers that all attention ops share.
#pragma once

#include "ops/views.h"

namespace tern {

struct AttentionTensors {
  Tensor q, k, v;
};

inline AttentionTensors attention_inputs(const char* op, const Tensor& q, const Tensor& k, const Tensor& v,
                                         const SequenceLayout& layout) {
  require_floating(op, q);
  require(q.rank() == 3 && q.shape() == k.shape() && q.shape() == v.shape() && q.size(0) == layout.tokens() &&
              q.size(2) > 0 && q.dtype() == k.dtype() && q.dtype() == v.dtype(),
          "{}: q, k and v must be [{}, heads, width] of one type, got {} {}, {} {} and {} {}", op,
          layout.tokens(), q.dtype(), q.shape(), k.dtype(), k.shape(), v.dtype(), v.shape());
  require_one_device(op, {{"q", q}, {"k", k}, {"v", v}, {"layout", layout.offsets}});
  return {with_unit_width(q), with_unit_width(k), with_unit_width(v)};
}

/// Three interleaved slices of one buffer, so that the gradient of one query-key-value product is one tensor.
inline AttentionTensors attention_gradients(const AttentionTensors& inputs) {
  const Shape& shape = inputs.q.shape();
  const Tensor all = empty({shape[0], 3, shape[1], shape[2]}, inputs.q.dtype(), inputs.q.device());
  const auto part = [&](std::int64_t index) {
    return all.viewed(shape, {3 * shape[1] * shape[2], shape[2], 1}, index * shape[1] * shape[2]);
  };
  return {part(0), part(1), part(2)};
}

inline void add_attention_gradients(const AttentionTensors& gradients, GradientSink& sink) {
  sink.add(0, gradients.q);
  sink.add(1, gradients.k);
  sink.add(2, gradients.v);
}

}  // namespace tern
