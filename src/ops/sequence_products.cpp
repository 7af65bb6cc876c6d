// Attention that is linear in features: outer sums, row products, both with their denominator, and attention to
// the same few rows for all tokens of a sequence.
#include "kernels/sequence_products.h"

#include "kernels/landmarks.h"
#include "kernels/projected_attention.h"
#include "kernels/softmax.h"
#include "ops/attention_inputs.h"

namespace tern {
namespace {

using kernels::MatrixOrder;

template <class T>
using Use = typename kernels::RowTotals<T>::Use;

void require_rows(const char* op, const NamedInput& first, const NamedInput& second,
                  const SequenceLayout& layout) {
  const Tensor &a = first.tensor, &b = second.tensor;
  require_floating(op, a);
  require(a.rank() == 3 && b.rank() == 3 && a.size(0) == layout.tokens() && b.size(0) == layout.tokens() &&
              a.size(1) == b.size(1) && a.size(2) > 0 && b.size(2) > 0 && a.dtype() == b.dtype(),
          "{}: needs two tensors [{}, heads, width] of one type, got {} {} and {} {}", op, layout.tokens(),
          a.dtype(), a.shape(), b.dtype(), b.shape());
  require_one_device(op, {first, second, {"layout", layout.offsets}});
}

/// Sums of a b^T, and of the rows of a where `totals` is defined, with `weights` where they are.
Tensor summed(const Tensor& a, const Tensor& b, const SequenceLayout& layout, const Tensor& totals = {},
              const Tensor& weights = {}) {
  const Tensor out = empty_sums({layout.sequences(), a.size(1), a.size(2), b.size(2)}, a);
  dispatch(a, [&]<class T>(auto& device, Type<T>) {
    kernels::outer_sums<T>(device, sequences_of(layout),
                           {heads_of<const T>(a), heads_of<const T>(b), out.data<Accumulate<T>>(),
                            data_or_null<Accumulate<T>>(totals), data_or_null<Accumulate<T>>(weights)});
  });
  return out;
}

/// A new tensor for the products of x's rows with `matrices`.
Tensor empty_products(const Tensor& x, const Tensor& matrices, MatrixOrder order) {
  return empty({x.size(0), x.size(1), matrices.size(order == MatrixOrder::plain ? 3 : 2)}, x.dtype(),
               x.device());
}

Tensor multiplied(const Tensor& x, const Tensor& matrices, const SequenceLayout& layout, MatrixOrder order) {
  const Tensor y = empty_products(x, matrices, order);
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::row_products<T>(device, sequences_of(layout),
                             {heads_of<const T>(x), matrices.data<Accumulate<T>>(), order, heads_of<T>(y)});
  });
  return y;
}

/// y = M x + weights vector, written to `y`; weights of one where they are undefined.
void multiply_and_add(const Tensor& x, const Tensor& matrices, const SequenceLayout& layout,
                      const Tensor& vectors, const Tensor& weights, const Tensor& y) {
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    using A = Accumulate<T>;
    kernels::row_products<T>(
        device, sequences_of(layout),
        {heads_of<const T>(x),
         matrices.data<A>(),
         MatrixOrder::transposed,
         heads_of<T>(y),
         {.use = Use<T>::add, .vectors = vectors.data<A>(), .weights = data_or_null<A>(weights)}});
  });
}

/// Gradients of n and of the divisors in y = n / divisors.
struct Quotient {
  Tensor dn, ddivisors;
};
Quotient divided_backward(const Tensor& y, const Tensor& dy, const Tensor& divisors) {
  const Quotient out{empty(y.shape(), y.dtype(), y.device()), empty_like(divisors)};
  dispatch(dy, [&]<class T>(auto& device, Type<T>) {
    using A = Accumulate<T>;
    kernels::divided_rows_backward<T>(device, heads_of<const T>(y), heads_of<const T>(dy), divisors.data<A>(),
                                      out.dn.data<T>(), out.ddivisors.data<A>());
  });
  return out;
}

/// What projected_attention works on, and its result where a kernel needs no weights in memory.
struct Projection {
  Tensor q, keys, values, y, lse;
  SequenceLayout layout;
  bool limited;

  template <class T>
  kernels::ProjectedInputs<T> inputs() const {
    return {heads_of<const T>(q), keys.data<Accumulate<T>>(), values.data<Accumulate<T>>(),
            static_cast<int>(keys.size(2)), limited};
  }
  /// Whether there is such a kernel.
  bool attend() const {
    bool is_done = false;
    if (q.size(2) == values.size(3))
      dispatch(q, [&]<class T>(auto& device, Type<T>) {
        is_done = kernels::projected_attention_forward(device, sequences_of(layout), inputs<T>(),
                                                       heads_of<T>(y), lse.data<Accumulate<T>>());
      });
    return is_done;
  }
  void differentiate(const Tensor& gradient, GradientSink& sink) const {
    const Tensor dy = with_unit_width(gradient), dq = empty(q.shape(), q.dtype(), q.device()),
                 dkeys = empty_like(keys), dvalues = empty_like(values);
    dispatch(q, [&]<class T>(auto& device, Type<T>) {
      using A = Accumulate<T>;
      kernels::projected_attention_backward(
          device, sequences_of(layout), inputs<T>(),
          kernels::SoftmaxResult<T>{heads_of<const T>(y), lse.data<const A>()}, heads_of<const T>(dy),
          kernels::ProjectedGradients<T>{heads_of<T>(dq), dkeys.data<A>(), dvalues.data<A>()});
    });
    sink.add(0, dq);
    sink.add(1, dkeys);
    sink.add(2, dvalues);
  }
};

/// softmax(x keys^T) of all rows.
Tensor projected_weights(const Tensor& x, const Tensor& keys, const SequenceLayout& layout, bool limited) {
  const Tensor weights = multiplied(x, keys, layout, MatrixOrder::transposed);
  dispatch(weights, [&]<class T>(auto& device, Type<T>) {
    if (limited)
      kernels::softmax_over_landmarks<T>(device, sequences_of(layout), heads_of<const T>(weights),
                                         heads_of<T>(weights));
    else
      kernels::softmax_forward<T>(device, rows_of<const T>(weights), rows_of<T>(weights));
  });
  return weights;
}

}  // namespace

Tensor outer_sums(const Tensor& first, const Tensor& second, const SequenceLayout& layout) {
  require_rows("outer_sums", {"a", first}, {"b", second}, layout);
  const Tensor a = with_unit_width(first), b = with_unit_width(second);
  return record("outer_sums", summed(a, b, layout), {first, second},
                [=](const Tensor& gradient, GradientSink& sink) {
                  const Tensor dm = contiguous_constant(gradient);
                  if (sink.wants(0)) sink.add(0, multiplied(b, dm, layout, MatrixOrder::transposed));
                  if (sink.wants(1)) sink.add(1, multiplied(a, dm, layout, MatrixOrder::plain));
                });
}

Tensor row_products(const Tensor& input, const Tensor& factors, const SequenceLayout& layout,
                    RowProductOptions options) {
  require_floating("row_products", input);
  require(input.rank() == 3 && input.size(0) == layout.tokens() && factors.rank() == 4 &&
              factors.dtype() == accumulate_type(input.dtype()) && factors.size(0) == layout.sequences() &&
              factors.size(1) == input.size(1) && factors.size(options.transpose ? 3 : 2) == input.size(2) &&
              factors.size(2) > 0 && factors.size(3) > 0,
          "row_products: x [{}, heads, width] needs {} matrices [{}, heads, width, columns] (transposed: [..., "
          "columns, width]), got {} {} and {} {}, transposed: {}",
          layout.tokens(), accumulate_type(input.dtype()), layout.sequences(), input.dtype(), input.shape(),
          factors.dtype(), factors.shape(), options.transpose);
  require_one_device("row_products", {{"x", input}, {"matrices", factors}, {"layout", layout.offsets}});
  const Tensor x = with_unit_width(input), matrices = contiguous_constant(factors);
  const auto order = options.transpose ? MatrixOrder::transposed : MatrixOrder::plain;
  return record("row_products", multiplied(x, matrices, layout, order), {input, factors},
                [=](const Tensor& gradient, GradientSink& sink) {
                  const Tensor dy = with_unit_width(gradient);
                  const auto back = options.transpose ? MatrixOrder::plain : MatrixOrder::transposed;
                  if (sink.wants(0)) sink.add(0, multiplied(dy, matrices, layout, back));
                  if (sink.wants(1))
                    sink.add(1, options.transpose ? summed(dy, x, layout) : summed(x, dy, layout));
                });
}

Tensor feature_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                         const SequenceLayout& layout, double epsilon) {
  require_rows("feature_attention", {"q", query}, {"v", value}, layout);
  require_rows("feature_attention", {"k", key}, {"v", value}, layout);
  require(query.size(2) == key.size(2),
          "feature_attention: queries and keys must have the same features, got {} and {}", query.shape(),
          key.shape());
  require(epsilon >= 0, "feature_attention: epsilon must be at least 0, got {}", epsilon);
  const Tensor q = with_unit_width(query), k = with_unit_width(key), v = with_unit_width(value);
  const Tensor totals = empty_sums({layout.sequences(), k.size(1), k.size(2)}, k);
  const Tensor matrices = summed(k, v, layout, totals);
  const Tensor y = empty_products(q, matrices, MatrixOrder::plain),
               divisors = empty_sums({q.size(0), q.size(1)}, q);
  dispatch(q, [&]<class T>(auto& device, Type<T>) {
    using A = Accumulate<T>;
    kernels::row_products<T>(device, sequences_of(layout),
                             {heads_of<const T>(q),
                              matrices.data<A>(),
                              MatrixOrder::plain,
                              heads_of<T>(y),
                              {.use = Use<T>::divide,
                               .vectors = totals.data<A>(),
                               .epsilon = epsilon,
                               .divisors = divisors.data<A>()}});
  });
  return record("feature_attention", y, {query, key, value}, [=](const Tensor& gradient, GradientSink& sink) {
    const Quotient quotient = divided_backward(y, with_unit_width(gradient), divisors);
    const auto like = [](const Tensor& x) { return empty(x.shape(), x.dtype(), x.device()); };
    if (sink.wants(0)) {
      const Tensor dq = like(q);
      multiply_and_add(quotient.dn, matrices, layout, totals, quotient.ddivisors, dq);
      sink.add(0, dq);
    }
    if (!sink.wants(1) && !sink.wants(2)) return;
    const Tensor dtotals = empty_like(totals),
                 dmatrices = summed(q, quotient.dn, layout, dtotals, quotient.ddivisors);
    if (sink.wants(1)) {
      const Tensor dk = like(k);
      multiply_and_add(v, dmatrices, layout, dtotals, {}, dk);
      sink.add(1, dk);
    }
    if (sink.wants(2)) sink.add(2, multiplied(k, dmatrices, layout, MatrixOrder::plain));
  });
}

Tensor projected_attention(const Tensor& query, const Tensor& keys, const Tensor& values,
                           const SequenceLayout& layout, bool limited) {
  require_floating("projected_attention", query);
  require(
      query.rank() == 3 && query.size(0) == layout.tokens() && query.size(2) > 0 && keys.rank() == 4 &&
          values.rank() == 4 && keys.size(2) > 0 && values.size(3) > 0 &&
          keys.shape() == Shape{layout.sequences(), query.size(1), keys.size(2), query.size(2)} &&
          values.shape() == Shape{layout.sequences(), query.size(1), keys.size(2), values.size(3)} &&
          keys.dtype() == accumulate_type(query.dtype()) && values.dtype() == keys.dtype(),
      "projected_attention: q [{}, heads, width] needs {} keys [{}, heads, rows, width] and values of as many "
      "rows, got {} {}, {} {} and {} {}",
      layout.tokens(), accumulate_type(query.dtype()), layout.sequences(), query.dtype(), query.shape(),
      keys.dtype(), keys.shape(), values.dtype(), values.shape());
  require_one_device("projected_attention",
                     {{"q", query}, {"keys", keys}, {"values", values}, {"layout", layout.offsets}});
  const Tensor q = with_unit_width(query), k = contiguous_constant(keys), v = contiguous_constant(values);
  const Projection projection{q,
                              k,
                              v,
                              empty({q.size(0), q.size(1), v.size(3)}, q.dtype(), q.device()),
                              empty_sums({q.size(1), q.size(0)}, q),
                              layout,
                              limited};
  if (projection.attend())
    return record(
        "projected_attention", projection.y, {query, keys, values},
        [=](const Tensor& gradient, GradientSink& sink) { projection.differentiate(gradient, sink); });
  const Tensor weights = projected_weights(q, k, layout, limited);
  const Tensor y = multiplied(weights, v, layout, MatrixOrder::plain);
  return record(
      "projected_attention", y, {query, keys, values}, [=](const Tensor& gradient, GradientSink& sink) {
        const Tensor dy = with_unit_width(gradient);
        if (sink.wants(2)) sink.add(2, summed(weights, dy, layout));
        if (!sink.wants(0) && !sink.wants(1)) return;
        const Tensor dscores = multiplied(dy, v, layout, MatrixOrder::transposed);  // of the weights, at first
        dispatch(dscores, [&]<class T>(auto& device, Type<T>) {
          kernels::softmax_backward<T>(device, rows_of<const T>(weights), rows_of<const T>(dscores),
                                       rows_of<T>(dscores));
        });
        if (sink.wants(0)) sink.add(0, multiplied(dscores, k, layout, MatrixOrder::plain));
        if (sink.wants(1)) sink.add(1, summed(dscores, q, layout));
      });
}

}  // namespace tern
