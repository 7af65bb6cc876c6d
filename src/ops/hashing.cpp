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

/// Null for an undefined tensor.
template <class Code>
Code* codes_of(const Tensor& codes) {
  return codes.defined() ? reinterpret_cast<Code*>(codes.address()) : nullptr;
}

/// [heads, hashes, tokens] for x [tokens, heads, width].
Tensor empty_codes(const Tensor& x, kernels::HashShape shape) {
  return empty({x.size(1), shape.hashes, x.size(0)}, shape.bits <= 16 ? DType::uint16 : DType::int32,
               x.device());
}

/// What a call of bernoulli_sample works on.
struct SampleCall {
  AttentionTensors inputs;
  SequenceLayout layout;
  kernels::HashShape shape;
  BernoulliGradient gradient;
  RandomStream stream;
  BernoulliRows rows;
};
struct CodeTensors {
  Tensor q, k;
};
/// y, and with BernoulliRows::unit the lengths of its rows before they were scaled, [tokens, heads, 1].
struct SampledRows {
  Tensor y, norm;
};

CodeTensors sampled_codes(const SampleCall& call) {
  const AttentionTensors& in = call.inputs;
  const CodeTensors codes{empty_codes(in.q, call.shape), empty_codes(in.k, call.shape)};
  dispatch(in.q, [&]<class T>(auto& device, Type<T>) {
    with_code(call.shape.bits, [&]<class Code>(Code) {
      kernels::hash_codes<T, Code>(device, sequences_of(call.layout), heads_of<const T>(in.q),
                                   heads_of<const T>(in.k), call.shape, call.stream, codes_of<Code>(codes.q),
                                   codes_of<Code>(codes.k));
    });
  });
  return codes;
}

/// The mean over hashes of the sums of values over keys that have the query's code.
SampledRows sampled_rows(const SampleCall& call, const CodeTensors& codes) {
  const Tensor& value = call.inputs.v;
  const Tensor y = empty(value.shape(), value.dtype(), value.device());
  const bool is_unit = call.rows == BernoulliRows::unit;
  const Tensor norm = is_unit ? empty_sums({value.size(0), value.size(1), 1}, value) : Tensor();
  dispatch(value, [&]<class T>(auto& device, Type<T>) {
    with_code(call.shape.bits, [&]<class Code>(Code) {
      const auto sequences = sequences_of(call.layout);
      const auto q_codes = codes_of<const Code>(codes.q), k_codes = codes_of<const Code>(codes.k);
      if (is_unit)
        kernels::unit_bucket_sum<T, Code>(device, sequences, call.shape, k_codes, heads_of<const T>(value),
                                          q_codes, heads_of<T>(y), heads_of<Accumulate<T>>(norm));
      else
        kernels::bucket_sum<T, Code>(device, sequences, call.shape, k_codes, heads_of<const T>(value), q_codes,
                                     heads_of<T>(y));
    });
  });
  return {y, norm};
}

AttentionTensors sampled_gradients(const SampleCall& call, const CodeTensors& codes, const SampledRows& result,
                                   const Tensor& dy) {
  const AttentionTensors d = attention_gradients(call.inputs), &in = call.inputs;
  dispatch(dy, [&]<class T>(auto& device, Type<T>) {
    with_code(call.shape.bits, [&]<class Code>(Code) {
      const kernels::CollisionGradients<T, Code> operands{codes_of<const Code>(codes.q),
                                                          codes_of<const Code>(codes.k),
                                                          heads_of<const T>(in.q),
                                                          heads_of<const T>(in.k),
                                                          heads_of<const T>(in.v),
                                                          heads_of<const T>(dy),
                                                          call.gradient,
                                                          heads_of<T>(d.q),
                                                          heads_of<T>(d.k),
                                                          heads_of<T>(d.v)};
      if (call.rows == BernoulliRows::unit)
        kernels::unit_collision_gradients<T, Code>(
            device, sequences_of(call.layout), call.shape, call.stream, operands,
            {heads_of<const T>(result.y), heads_of<const Accumulate<T>>(result.norm)});
      else
        kernels::collision_gradients<T, Code>(device, sequences_of(call.layout), call.shape, call.stream,
                                              operands);
    });
  });
  return d;
}

}  // namespace

Tensor hash_codes(const Tensor& input, const SequenceLayout& layout, const HashOptions& options,
                  const RandomStream& stream) {
  require_floating("hash_codes", input);
  require(input.rank() == 3 && input.size(0) == layout.tokens() && input.size(2) > 0,
          "hash_codes: x must be [{}, heads, width], got {}", layout.tokens(), input.shape());
  require_one_device("hash_codes", {{"x", input}, {"layout", layout.offsets}});
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
                        const HashOptions& options, BernoulliGradient gradient, const RandomStream& stream,
                        BernoulliRows rows) {
  const SampleCall call{attention_inputs("bernoulli_sample", q, k, v, layout),
                        layout,
                        hash_shape("bernoulli_sample", options),
                        gradient,
                        stream,
                        rows};
  const CodeTensors codes = sampled_codes(call);
  const SampledRows result = sampled_rows(call, codes);
  // codes take as much memory as rows; a GPU hashes again in a twentieth of the backward pass
  const bool hashes_again = rows == BernoulliRows::unit && q.device().type == DeviceType::cuda;
  const CodeTensors kept = hashes_again ? CodeTensors{} : codes;
  return record("bernoulli_sample", result.y, {q, k, v}, [=](const Tensor& dy, GradientSink& sink) {
    add_attention_gradients(sampled_gradients(call, kept, result, with_unit_width(dy)), sink);
  });
}

}  // namespace tern
