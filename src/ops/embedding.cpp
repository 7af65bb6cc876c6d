#include "kernels/embedding.h"

#include "core/accumulate.h"
#include "ops/views.h"

namespace tern {

Tensor embedding(const Tensor& ids, const Tensor& table) {
  require_floating("embedding", table);
  require(ids.rank() == 1 && ids.is_contiguous() && table.rank() == 2,
          "embedding: needs contiguous ids [count] and a table [rows, width], got {} and {}", ids.shape(),
          table.shape());
  const Tensor source = contiguous_constant(table),
               y = empty({ids.size(0), table.size(1)}, table.dtype(), table.device());
  dispatch(source, [&]<class T>(auto& device, Type<T>) {
    const std::int64_t bad = kernels::gather_rows<T>(device, rows_of<const T>(source), ids.data<std::int32_t>(),
                                                     ids.count(), y.data<T>());
    require(bad < 0, "embedding: ids must lie in [0, {}), got {} at place {}", table.size(0),
            bad < 0 ? 0 : ids.data<std::int32_t>()[bad], bad);
  });
  return record("embedding", y, {table}, [ids](const Tensor& gradient, GradientSink& sink) {
    const Tensor dy = contiguous_constant(gradient);
    sink.write(0, [&](const Tensor& target, bool accumulate) {
      if (!accumulate) clear(target);
      dispatch(dy, [&]<class T>(auto& device, Type<T>) {
        kernels::scatter_add_rows<T>(device, rows_of<const T>(dy), ids.data<std::int32_t>(), target.data<T>());
      });
    });
  });
}

Tensor sequence_mean(const Tensor& input, const SequenceLayout& layout, std::int64_t divisor) {
  require_floating("sequence_mean", input);
  require(input.rank() == 2 && input.size(0) == layout.tokens() && divisor >= 0,
          "sequence_mean: x must be [{}, width] and the divisor 0 or more, got {} and {}", layout.tokens(),
          input.shape(), divisor);
  const Tensor x = contiguous_constant(input),
               y = empty({layout.sequences(), x.size(1)}, x.dtype(), x.device());
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::sequence_mean_forward<T>(device, sequences_of(layout), rows_of<const T>(x), divisor, y.data<T>());
  });
  return record("sequence_mean", y, {input},
                [layout, divisor, shape = x.shape()](const Tensor& gradient, GradientSink& sink) {
                  const Tensor dy = contiguous_constant(gradient), dx = empty(shape, dy.dtype(), dy.device());
                  dispatch(dy, [&]<class T>(auto& device, Type<T>) {
                    kernels::sequence_mean_backward<T>(device, sequences_of(layout), shape[1], dy.data<T>(),
                                                       divisor, dx.data<T>());
                  });
                  sink.add(0, dx);
                });
}

Tensor sequence_first(const Tensor& x, const SequenceLayout& layout) {
  const std::int32_t* offsets = layout.offsets.data<std::int32_t>();
  for (std::int64_t s = 0; s < layout.sequences(); ++s)
    require(offsets[s] < offsets[s + 1], "sequence_first: sequence {} has no token; pool by mean instead", s);
  return embedding(contiguous_constant(layout.offsets.narrowed(0, 0, layout.sequences())), x);
}

}  // namespace tern
