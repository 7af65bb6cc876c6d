// YOSO's sampled attention: codes, sums over colliding rows, gradients over colliding pairs.
#include "kernels/hashing.h"

#include "ops/attention_inputs.h"

namespace tern {
namespace {

kernels::HashShape hash_shape(const char* op, const HashOptions& options) {
  require(options.hashes >= 1, "{}: hashes must be at least 1, got {}", op, options.hashes);
  require(options.bits >= 1 && options.bits <= 20, "{}: bits must lie in [1, 20], got {}", op, options.bits);
  return {options.family, options.hashes, options.bits};
}

/// Calls body(Code{}) with the unsigned type that holds `bits` bits.
template <class Body>
void with_code(int bits, const Body& body) {
  if (bits <= 16)
    body(std::uint16_t{});
  else
    body(std::uint32_t{});
}

template <class Code>
Code* codes_of(const Tensor& codes) {
  return reinterpret_cast<Code*>(codes.address());
}

/// [heads, hashes, tokens] for x [tokens, heads, width].
Tensor empty_codes(const Tensor& x, kernels::HashShape shape) {
  return empty({x.size(1), shape.hashes, x.size(0)}, shape.bits <= 16 ? DType::uint16 : DType::int32,
               x.device());
}

/// out = mean over hashes of the sums of `value` over rows whose source code equals the row's own.
Tensor summed_buckets(const SequenceLayout& layout, kernels::HashShape shape, const Tensor& source_codes,
                      const Tensor& value, const Tensor& codes) {
  const Tensor out = empty(value.shape(), value.dtype(), value.device());
  dispatch(value, [&]<class T>(auto& device, Type<T>) {
    with_code(shape.bits, [&]<class Code>(Code) {
      kernels::bucket_sum<T, Code>(device, sequences_of(layout), shape, codes_of<const Code>(source_codes),
                                   heads_of<const T>(value), codes_of<const Code>(codes), heads_of<T>(out));
    });
  });
  return out;
}

}  // namespace

Tensor hash_codes(const Tensor& input, const SequenceLayout& layout, const HashOptions& options,
                  const RandomStream& stream) {
  require_floating("hash_codes", input);
  require(input.rank() == 3 && input.size(0) == layout.tokens() && input.size(2) > 0,
          "hash_codes: x must be [{}, heads, width], got {}", layout.tokens(), input.shape());
  const kernels::HashShape shape = hash_shape("hash_codes", options);
  const Tensor x = with_unit_width(input);
  const Tensor codes = empty_codes(x, shape);
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    with_code(shape.bits, [&]<class Code>(Code) {
      kernels::hash_codes<T, Code>(device, sequences_of(layout), heads_of<const T>(x), shape, stream,
                                   codes_of<Code>(codes));
    });
  });
  return codes;
}

Tensor bernoulli_sample(const Tensor& q, const Tensor& k, const Tensor& v, const SequenceLayout& layout,
                        const HashOptions& options, BernoulliGradient gradient, const RandomStream& stream) {
  const AttentionTensors inputs = attention_inputs("bernoulli_sample", q, k, v, layout);
  const kernels::HashShape shape = hash_shape("bernoulli_sample", options);
  const Tensor q_codes = empty_codes(inputs.q, shape), k_codes = empty_codes(inputs.k, shape);
  dispatch(inputs.q, [&]<class T>(auto& device, Type<T>) {
    with_code(shape.bits, [&]<class Code>(Code) {
      kernels::hash_codes<T, Code>(device, sequences_of(layout), heads_of<const T>(inputs.q),
                                   heads_of<const T>(inputs.k), shape, stream, codes_of<Code>(q_codes),
                                   codes_of<Code>(k_codes));
    });
  });
  const Tensor out = summed_buckets(layout, shape, k_codes, inputs.v, q_codes);
  return record("bernoulli_sample", out, {q, k, v}, [=](const Tensor& dout, GradientSink& sink) {
    const Tensor dy = with_unit_width(dout);
    const auto gradient_tensor = [&] { return empty(dy.shape(), dy.dtype(), dy.device()); };
    const Tensor dq = gradient_tensor(), dk = gradient_tensor(), dv = gradient_tensor();
    dispatch(dy, [&]<class T>(auto& device, Type<T>) {
      with_code(shape.bits, [&]<class Code>(Code) {
        kernels::collision_gradients<T, Code>(
            device, sequences_of(layout), shape, stream,
            {codes_of<const Code>(q_codes), codes_of<const Code>(k_codes), heads_of<const T>(inputs.q),
             heads_of<const T>(inputs.k), heads_of<const T>(inputs.v), heads_of<const T>(dy), gradient,
             heads_of<T>(dq), heads_of<T>(dk), heads_of<T>(dv)});
      });
    });
    sink.add(0, dq);
    sink.add(1, dk);
    sink.add(2, dv);
  });
}

}  // namespace tern
