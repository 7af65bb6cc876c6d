#include "kernels/token_masking.h"

#include "base/parallel.h"

namespace tern::kernels {

template <class A, Isa isa>
void mask_tokens(Cpu<isa>&, const TokenMasking& masking, const std::int32_t* id, std::int64_t tokens,
                 const std::int32_t* end, std::int32_t* seen, A* weight) {
  parallel_for(tokens, 1024, [&](std::int64_t token) {
    const MaskedToken masked = masked_token(masking, token, id[token]);
    seen[token] = masked.id;
    weight[token] = masked.is_chosen && token < *end ? A(1) : A(0);
  });
}

#define INSTANTIATE(A)                                                                                 \
  template void mask_tokens<A>(Cpu<TERN_ISA>&, const TokenMasking&, const std::int32_t*, std::int64_t, \
                               const std::int32_t*, std::int32_t*, A*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
