#include "kernels/embedding.h"

#include "ops/views.h"

namespace tern {

namespace {

template <class T>
kernels::EmbeddingTables<T> tables_of(const Tensor& ids, const Tensor& table, const Tensor& position,
                                      const Tensor& place_table) {
  const kernels::Rows<const T> places =
      place_table.defined() ? rows_of<const T>(place_table) : kernels::Rows<const T>{nullptr, 0, 0, 0};
  return {rows_of<const T>(table), ids.data<std::int32_t>(), places,
          position.defined() ? position.data<std::int32_t>() : nullptr};
}

void require_table(const char* op, const NamedInput& places, const Tensor& table) {
  const Tensor& ids = places.tensor;
  require_floating(op, table);
  require(ids.rank() == 1 && ids.is_contiguous() && table.rank() == 2,
          "{}: needs contiguous ids [count] and a table [rows, width], got {} and {}", op, ids.shape(),
          table.shape());
  require_one_device(op, {{"table", table}, places});
}

void look_up(const char* op, const Tensor& ids, const Tensor& table, const Tensor& position,
             const Tensor& place_table, const kernels::DropoutMask& mask, const Tensor& y) {
  dispatch(y, [&]<class T>(auto& device, Type<T>) {
    const std::int64_t bad = kernels::embedding_forward<T>(
        device, tables_of<Accumulate<T>>(ids, table, position, place_table), ids.count(), mask, y.data<T>());
    require(bad < 0, "{}: ids must lie in [0, {}), got {} at place {}", op, table.size(0),
            bad < 0 ? 0 : ids.data<std::int32_t>()[bad], bad);
  });
}

/// Adds the rows of dropout(dy) to the gradient of the table `index` of the node.
void scatter(const Tensor& dy, const kernels::DropoutMask& mask, const Tensor& ids, std::int64_t rows,
             int index, GradientSink& sink) {
  const Tensor target = gradient_sums(sink, index);
  if (!target.defined()) return;
  dispatch(dy, [&]<class T>(auto& device, Type<T>) {
    kernels::scatter_add_rows<T>(device, rows_of<const T>(dy), mask, ids.data<std::int32_t>(), rows,
                                 target.data<Accumulate<T>>());
  });
}

/// The same with the places of `layout` for ids, of which no sequence has one twice.
void scatter_to_places(const Tensor& dy, const kernels::DropoutMask& mask, const SequenceLayout& layout,
                       std::int64_t rows, int index, GradientSink& sink) {
  const Tensor target = gradient_sums(sink, index);
  if (!target.defined()) return;
  dispatch(dy, [&]<class T>(auto& device, Type<T>) {
    kernels::scatter_add_places<T>(device, sequences_of(layout), rows_of<const T>(dy), mask, rows,
                                   target.data<Accumulate<T>>());
  });
}

}  // namespace

Tensor embedding(const Tensor& ids, const Tensor& table) {
  require_table("embedding", {"ids", ids}, table);
  require(table.dtype() == accumulate_type(table.dtype()),
          "embedding: the table must be float32 or float64, got {}", table.dtype());
  const Tensor source = contiguous_constant(table),
               y = empty({ids.size(0), table.size(1)}, table.dtype(), table.device());
  look_up("embedding", ids, source, {}, {}, {}, y);
  return record("embedding", y, {table}, [ids, rows = table.size(0)](const Tensor& dy, GradientSink& sink) {
    scatter(contiguous_constant(dy), {}, ids, rows, 0, sink);
  });
}

Tensor token_embedding(const Tensor& ids, const Tensor& table, const Tensor& place_table,
                       const SequenceLayout& layout, const DropoutOptions& options, DType dtype) {
  require_table("token_embedding", {"ids", ids}, table);
  require_rate("token_embedding", options.rate);
  require(ids.size(0) == layout.tokens() && table.dtype() == accumulate_type(dtype),
          "token_embedding: needs {} ids and a {} table, got {} and {}", layout.tokens(),
          accumulate_type(dtype), ids.size(0), table.dtype());
  const bool has_places = place_table.defined();
  require(!has_places || (place_table.rank() == 2 && place_table.size(1) == table.size(1) &&
                          place_table.size(0) >= layout.padded_length && place_table.dtype() == table.dtype()),
          "token_embedding: the place table must be {} [at least {}, {}], got {} {}", table.dtype(),
          layout.padded_length, table.size(1), place_table.dtype(), place_table.shape());
  require_one_device("token_embedding",
                     {{"table", table}, {"place_table", place_table}, {"layout", layout.offsets}});
  if (has_places && is_same_value(table, place_table))
    return token_embedding(ids, table, affine(place_table, 1), layout, options, dtype);
  const Tensor source = contiguous_constant(table),
               places = has_places ? contiguous_constant(place_table) : Tensor(),
               y = empty({ids.size(0), table.size(1)}, dtype, table.device());
  const RowCoordinates rows = layout.token_rows();
  look_up("token_embedding", ids, source, layout.position, places, mask_of(rows, options), y);
  return record("token_embedding", y, {table, place_table},
                [=, count = table.size(0), place_count = has_places ? place_table.size(0) : 0](
                    const Tensor& gradient, GradientSink& sink) {
                  const Tensor dy = contiguous_constant(gradient);
                  const kernels::DropoutMask mask = mask_of(rows, options);
                  scatter(dy, mask, ids, count, 0, sink);
                  scatter_to_places(dy, mask, layout, place_count, 1, sink);
                });
}

Tensor position_rows(const Tensor& table, const SequenceLayout& layout, DType dtype) {
  require_table("position_rows", {"layout", layout.position}, table);
  require(table.size(0) >= layout.padded_length && table.dtype() == accumulate_type(dtype),
          "position_rows: the table must be {} [at least {}, width], got {} {}", accumulate_type(dtype),
          layout.padded_length, table.dtype(), table.shape());
  const Tensor source = contiguous_constant(table),
               y = empty({layout.tokens(), table.size(1)}, dtype, table.device());
  look_up("position_rows", layout.position, source, {}, {}, {}, y);
  return record("position_rows", y, {table},
                [layout, rows = table.size(0)](const Tensor& gradient, GradientSink& sink) {
                  scatter_to_places(contiguous_constant(gradient), {}, layout, rows, 0, sink);
                });
}

Tensor sequence_mean(const Tensor& input, const SequenceLayout& layout, std::int64_t divisor) {
  require_floating("sequence_mean", input);
  require(input.rank() == 2 && input.size(0) == layout.tokens() && divisor >= 0,
          "sequence_mean: x must be [{}, width] and the divisor 0 or more, got {} and {}", layout.tokens(),
          input.shape(), divisor);
  require_one_device("sequence_mean", {{"x", input}, {"layout", layout.offsets}});
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

Tensor sequence_first(const Tensor& input, const SequenceLayout& layout) {
  require_floating("sequence_first", input);
  require(input.rank() == 2 && input.size(0) == layout.tokens(),
          "sequence_first: x must be [{}, width], got {}", layout.tokens(), input.shape());
  require(layout.shortest > 0 || layout.sequences() == 0,
          "sequence_first: a sequence has no token; pool by mean instead");
  require_one_device("sequence_first", {{"x", input}, {"layout", layout.offsets}});
  const Tensor x = contiguous_constant(input),
               y = empty({layout.sequences(), x.size(1)}, x.dtype(), x.device());
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::sequence_first_forward<T>(device, sequences_of(layout), rows_of<const T>(x), y.data<T>());
  });
  return record("sequence_first", y, {input},
                [layout, shape = x.shape()](const Tensor& gradient, GradientSink& sink) {
                  const Tensor dy = contiguous_constant(gradient), dx = empty(shape, dy.dtype(), dy.device());
                  dispatch(dy, [&]<class T>(auto& device, Type<T>) {
                    kernels::sequence_first_backward<T>(device, sequences_of(layout), shape[1], dy.data<T>(),
                                                        dx.data<T>());
                  });
                  sink.add(0, dx);
                });
}

}  // namespace tern
