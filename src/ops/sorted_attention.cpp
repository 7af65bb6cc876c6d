// Hashing, sorting, and attention in blocks of sorted tokens.
#include "kernels/sorted_attention.h"

#include "ops/attention_inputs.h"

namespace tern {
namespace {

constexpr std::int64_t most_items = std::numeric_limits<std::int32_t>::max();

kernels::BlockRule rule_of(const char* op, const BlockOptions& blocks) {
  require(blocks.size >= 1, "{}: blocks must hold at least 1 token, got {}", op, blocks.size);
  return {blocks.size, blocks.whole, blocks.reach};
}

void require_lists(const char* op, const char* what, const Tensor& x, const SequenceLayout& layout) {
  require(x.defined() && x.rank() == 3 && x.dtype() == DType::int32 && x.size(2) == layout.tokens() &&
              x.size(1) >= 1 && x.size(1) <= kernels::most_rounds && x.is_contiguous(),
          "{}: {} must be contiguous [heads, 1 .. {} rounds, {}] int32, got {} {}", op, what,
          kernels::most_rounds, layout.tokens(), x.dtype(), x.shape());
  require_one_device(op, {{what, x}, {"layout", layout.offsets}});
}

/// Pointers into the tensors of `queries` and `keys`, which must outlive them.
kernels::SortedOptions settings_of(const SortedTokens& queries, const SortedTokens& keys,
                                   const SortedAttentionOptions& options) {
  const auto side = [](const SortedTokens& tokens) {
    return kernels::SortedSide{tokens.order.data<const std::int32_t>(),
                               tokens.segment.data<const std::int32_t>()};
  };
  return {side(queries),
          side(keys),
          static_cast<int>(queries.order.size(1)),
          rule_of("sorted_attention", options.blocks),
          options.scale,
          options.excludes_self,
          options.counts_once,
          options.samples,
          options.stream};
}

template <class A>
kernels::WeightSums<A> sums_of(const Tensor& sums) {
  return {sums.data<A>(), sums.data<A>() + sums.count() / 2};
}
template <class T>
kernels::AttentionInputs<T> inputs_of(const AttentionTensors& t) {
  return {heads_of<const T>(t.q), heads_of<const T>(t.k), heads_of<const T>(t.v)};
}

}  // namespace

Tensor rotation_codes(const Tensor& input, const SequenceLayout& layout, const RotationCodeOptions& options,
                      const RandomStream& stream) {
  require_floating("rotation_codes", input);
  require(input.rank() == 3 && input.size(0) == layout.tokens() && input.size(2) > 0,
          "rotation_codes: x must be [{}, heads, width], got {}", layout.tokens(), input.shape());
  require(options.rounds >= 1 && options.rounds <= kernels::most_rounds && options.block >= 1,
          "rotation_codes: rounds must lie in [1, {}] and blocks hold at least 1 token, got {} and {}",
          kernels::most_rounds, options.rounds, options.block);
  require(options.buckets >= 0 && options.buckets <= most_rotation_buckets && options.buckets % 2 == 0,
          "rotation_codes: buckets must be even and lie in [0, {}], got {}", most_rotation_buckets,
          options.buckets);
  require_one_device("rotation_codes", {{"x", input}, {"layout", layout.offsets}});
  const Tensor x = with_unit_width(input),
               codes = empty({x.size(1), options.rounds, x.size(0)}, DType::int32, x.device());
  dispatch(x, [&]<class T>(auto& device, Type<T>) {
    kernels::rotation_codes<T>(device, sequences_of(layout), heads_of<const T>(x),
                               {options.rounds, options.block, options.buckets}, stream,
                               codes.data<std::int32_t>());
  });
  return codes;
}

SortedTokens sort_tokens(const Tensor& codes, int bits, const SequenceLayout& layout,
                         const BlockOptions& blocks, bool gray) {
  require_lists("sort_tokens", "codes", codes, layout);
  require(bits >= 1 && bits <= 16, "sort_tokens: codes must have 1 .. 16 bits, got {}", bits);
  require(codes.count() <= most_items, "sort_tokens: heads * rounds * tokens must lie below 2^31, got {}",
          codes.shape());
  const SortedTokens out{empty_like(codes), empty_like(codes)};
  const kernels::TokenSort sort{codes.size(0) * codes.size(1),
                                bits,
                                gray,
                                rule_of("sort_tokens", blocks),
                                codes.data<const std::int32_t>(),
                                out.order.data<std::int32_t>(),
                                out.segment.data<std::int32_t>()};
  dispatch_device(codes.device(),
                  [&](auto& device) { kernels::sort_tokens(device, sequences_of(layout), sort); });
  return out;
}

Tensor sorted_attention(const Tensor& q, const Tensor& k, const Tensor& v, const SequenceLayout& layout,
                        const SortedTokens& queries, const SortedTokens& keys,
                        const SortedAttentionOptions& options) {
  const AttentionTensors inputs = attention_inputs("sorted_attention", q, k, v, layout);
  for (const Tensor& x : {queries.order, queries.segment, keys.order, keys.segment}) {
    require_lists("sorted_attention", "orders and segments", x, layout);
    require(x.shape() == queries.order.shape() && x.size(0) == q.size(1),
            "sorted_attention: orders and segments must be alike and for {} heads, got {} and {}", q.size(1),
            queries.order.shape(), x.shape());
  }
  require(!options.counts_once || options.blocks.reach != BlockReach::previous,
          "sorted_attention: keys of the round before cannot count once; choose another reach");
  require(
      options.blocks.reach != BlockReach::previous_code ||
          (queries.order.shares_storage_with(keys.order) && queries.segment.shares_storage_with(keys.segment)),
      "sorted_attention: where codes count, queries and keys must be one sort");
  require(options.samples >= 0 && options.samples <= kernels::most_samples,
          "sorted_attention: samples must lie in [0, {}], got {}", kernels::most_samples, options.samples);
  require(options.samples == 0 || queries.order.size(1) == 1,
          "sorted_attention: samples need one round, got {} samples and {} rounds", options.samples,
          queries.order.size(1));
  const Tensor out = empty(v.shape(), v.dtype(), v.device()), sums = empty_sums({2, q.size(1), q.size(0)}, q);
  dispatch(q, [&]<class T>(auto& device, Type<T>) {
    kernels::sorted_attention_forward<T>(device, sequences_of(layout), inputs_of<T>(inputs),
                                         settings_of(queries, keys, options), heads_of<T>(out),
                                         sums_of<Accumulate<T>>(sums));
  });
  return record("sorted_attention", out, {q, k, v}, [=](const Tensor& gradient, GradientSink& sink) {
    const Tensor dout = with_unit_width(gradient);
    const AttentionTensors d = attention_gradients(inputs);
    dispatch(dout, [&]<class T>(auto& device, Type<T>) {
      kernels::sorted_attention_backward<T>(device, sequences_of(layout), inputs_of<T>(inputs),
                                            settings_of(queries, keys, options), heads_of<const T>(out),
                                            sums_of<const Accumulate<T>>(sums), heads_of<const T>(dout),
                                            {heads_of<T>(d.q), heads_of<T>(d.k), heads_of<T>(d.v)});
    });
    add_attention_gradients(d, sink);
  });
}

}  // namespace tern
