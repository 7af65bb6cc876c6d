// Choosing tokens to predict. A thread takes a token. Deterministic.
#include "kernels/cuda/block.cuh"
#include "kernels/token_masking.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256;

template <class A>
__global__ void __launch_bounds__(threads_per_block)
    mask_tokens_kernel(TokenMasking masking, const std::int32_t* id, std::int64_t tokens,
                       const std::int32_t* end, std::int32_t* seen, A* weight) {
  for (std::int64_t token = thread_index(); token < tokens; token += grid_threads()) {
    const MaskedToken masked = masked_token(masking, token, id[token]);
    seen[token] = masked.id;
    weight[token] = masked.is_chosen && token < *end ? A(1) : A(0);
  }
}

}  // namespace

template <class A>
void mask_tokens(Cuda& cuda, const TokenMasking& masking, const std::int32_t* id, std::int64_t tokens,
                 const std::int32_t* end, std::int32_t* seen, A* weight) {
  if (tokens == 0) return;
  mask_tokens_kernel<A><<<grid_for(cuda, tokens, threads_per_block), threads_per_block, 0, cuda.stream>>>(
      masking, id, tokens, end, seen, weight);
  check_launch("mask_tokens");
}

#define INSTANTIATE(A)                                                                        \
  template void mask_tokens<A>(Cuda&, const TokenMasking&, const std::int32_t*, std::int64_t, \
                               const std::int32_t*, std::int32_t*, A*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace tern::kernels
