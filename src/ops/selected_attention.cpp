// Selection of segments, attention to them, and where a token stands in its sequence.
#include "kernels/selected_segments.h"
#include "ops/attention_inputs.h"

namespace tern {
namespace {

constexpr std::int64_t most_segments = 65536, most_keys = 65536;

kernels::SelectedOptions options_of(const SegmentSelection& selection, double scale) {
  return {{static_cast<int>(selection.segments), static_cast<int>(selection.keys)},
          selection.masks.data<std::int32_t>(),
          scale};
}

}  // namespace

SegmentSelection select_segments(const Tensor& input, const SequenceLayout& layout, std::int64_t keys) {
  require_floating("select_segments", input);
  require(input.rank() == 3 && input.size(0) == layout.tokens() && input.size(2) > 0 &&
              input.size(2) <= most_segments && keys > 0 && keys <= most_keys,
          "select_segments: needs weights [{}, heads, 1 to {} segments] and 1 to {} keys, got {} and {}",
          layout.tokens(), most_segments, most_keys, input.shape(), keys);
  require_one_device("select_segments", {{"weights", input}, {"layout", layout.offsets}});
  const Tensor weights = with_unit_width(input);
  const int words = kernels::selection_words(static_cast<int>(weights.size(2)));
  const SegmentSelection out{empty({weights.size(1), words, weights.size(0)}, DType::int32, weights.device()),
                             weights.size(2), keys};
  dispatch(weights, [&]<class T>(auto& device, Type<T>) {
    kernels::select_segments<T>(device, sequences_of(layout), heads_of<const T>(weights),
                                static_cast<int>(keys), out.masks.data<std::int32_t>());
  });
  return out;
}

Tensor selected_attention(const Tensor& q, const Tensor& k, const Tensor& v, const SequenceLayout& layout,
                          const SegmentSelection& selection, double scale) {
  const AttentionTensors in = attention_inputs("selected_attention", q, k, v, layout);
  const int words = kernels::selection_words(static_cast<int>(selection.segments));
  require(selection.masks.shape() == Shape{q.size(1), words, q.size(0)},
          "selected_attention: the selection must be one of these heads and tokens, [{}, {}, {}], got {}",
          q.size(1), words, q.size(0), selection.masks.shape());
  require_one_device("selected_attention", {{"q", q}, {"selection", selection.masks}});
  const Tensor out = empty(v.shape(), v.dtype(), v.device()), lse = empty_sums({q.size(1), q.size(0)}, q);
  const auto inputs_of = [in]<class T>(Type<T>) {
    return kernels::AttentionInputs<T>{heads_of<const T>(in.q), heads_of<const T>(in.k),
                                       heads_of<const T>(in.v)};
  };
  dispatch(q, [&]<class T>(auto& device, Type<T> type) {
    kernels::selected_attention_forward<T>(device, sequences_of(layout), inputs_of(type),
                                           options_of(selection, scale), heads_of<T>(out),
                                           lse.data<Accumulate<T>>());
  });
  return record("selected_attention", out, {q, k, v}, [=](const Tensor& gradient, GradientSink& sink) {
    const Tensor dout = with_unit_width(gradient);
    const AttentionTensors d = attention_gradients(in);
    dispatch(dout, [&]<class T>(auto& device, Type<T> type) {
      kernels::selected_attention_backward<T>(
          device, sequences_of(layout), inputs_of(type), options_of(selection, scale),
          {heads_of<const T>(out), lse.data<Accumulate<T>>()}, heads_of<const T>(dout),
          {heads_of<T>(d.q), heads_of<T>(d.k), heads_of<T>(d.v)});
    });
    add_attention_gradients(d, sink);
  });
}

Tensor stretched_unit_rows(const SequenceLayout& layout, std::int64_t heads, std::int64_t width, DType dtype) {
  require(is_floating(dtype) && heads > 0 && width > 0,
          "stretched_unit_rows: needs a floating type, heads and a width, got {}, {} and {}", dtype, heads,
          width);
  const Tensor y = empty({layout.tokens(), heads, width}, dtype, layout.position.device());
  dispatch(y, [&]<class T>(auto& device, Type<T>) {
    kernels::stretched_unit_rows<T>(device, sequences_of(layout), heads_of<T>(y));
  });
  return y;
}

}  // namespace tern
