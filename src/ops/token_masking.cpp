#include "kernels/token_masking.h"

#include "ops/views.h"

namespace tern {

MaskedTokens mask_tokens(const Tensor& tokens, const SequenceLayout& layout, const TokenMaskOptions& options,
                         DType dtype) {
  require(tokens.rank() == 1 && tokens.is_contiguous() && tokens.size(0) == layout.tokens(),
          "mask_tokens: needs contiguous ids [{}], got {}", layout.tokens(), tokens.shape());
  require(options.rate >= 0 && options.rate <= 1 && options.masked >= 0 && options.replaced >= 0 &&
              options.masked + options.replaced <= 1,
          "mask_tokens: rates and shares must lie in [0, 1], got {}, {} and {}", options.rate, options.masked,
          options.replaced);
  require(options.first_id < options.last_id, "mask_tokens: replacing ids must not be empty, got [{}, {})",
          options.first_id, options.last_id);
  require_one_device("mask_tokens", {{"ids", tokens}, {"layout", layout.offsets}});
  const MaskedTokens out{empty_like(tokens), empty({tokens.size(0)}, accumulate_type(dtype), tokens.device())};
  const kernels::TokenMasking masking{static_cast<float>(options.rate),
                                      static_cast<float>(options.masked),
                                      static_cast<float>(options.replaced),
                                      options.mask_id,
                                      options.first_id,
                                      options.last_id,
                                      options.stream,
                                      layout.token_sample.data<std::int64_t>(),
                                      layout.position.data<std::int32_t>()};
  dispatch(out.weights, [&]<class A>(auto& device, Type<A>) {
    if constexpr (!std::is_same_v<A, bfloat16>)
      kernels::mask_tokens<A>(device, masking, tokens.data<std::int32_t>(), tokens.size(0),
                              layout.offsets.data<std::int32_t>() + layout.sequences(),
                              out.tokens.data<std::int32_t>(), out.weights.data<A>());
  });
  return out;
}

}  // namespace tern
