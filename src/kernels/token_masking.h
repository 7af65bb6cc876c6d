// Choosing tokens to predict, and what the encoder sees in their places (Devlin et al. 2019, section 3.1).
#pragma once

#include "kernels/view.h"
#include "tern/device.h"

namespace tern::kernels {

/// Which tokens are chosen and what becomes of them. A token's draws are block `position` of the stream under
/// its sample: word 0 chooses, word 1 takes the fate, word 2 the id that replaces it.
struct TokenMasking {
  float rate;                      ///< probability of being chosen
  float masked, replaced;          ///< shares of chosen tokens; the rest stay as they are
  std::int32_t mask_id;            ///< what a masked token becomes
  std::int32_t first_id, last_id;  ///< a replaced one becomes an id of [first_id, last_id)
  RandomStream stream;
  const std::int64_t* sample;    ///< [tokens]
  const std::int32_t* position;  ///< [tokens]
};

struct MaskedToken {
  std::int32_t id;
  bool is_chosen;
};
[[gnu::always_inline]] TERN_HOST_DEVICE inline MaskedToken masked_token(const TokenMasking& masking,
                                                                        std::int64_t token, std::int32_t id) {
  const PhiloxWords words =
      masking.stream.words(masking.sample[token], static_cast<std::uint64_t>(masking.position[token]));
  if (!(to_uniform(words.word[0]) < masking.rate)) return {id, false};
  const float fate = to_uniform(words.word[1]);
  if (fate < masking.masked) return {masking.mask_id, true};
  if (!(fate < masking.masked + masking.replaced)) return {id, true};
  const auto ids = static_cast<std::uint32_t>(masking.last_id - masking.first_id);
  const auto drawn = static_cast<std::uint32_t>((std::uint64_t{words.word[2]} * ids) >> 32);
  return {masking.first_id + static_cast<std::int32_t>(drawn), true};
}

/// seen[t] = what the encoder sees of id[t]; weight[t] = 1 where t is chosen and t < *end, else 0.
template <class A, Isa isa>
void mask_tokens(Cpu<isa>&, const TokenMasking& masking, const std::int32_t* id, std::int64_t tokens,
                 const std::int32_t* end, std::int32_t* seen, A* weight);
template <class A>
void mask_tokens(Cuda&, const TokenMasking& masking, const std::int32_t* id, std::int64_t tokens,
                 const std::int32_t* end, std::int32_t* seen, A* weight);

}  // namespace tern::kernels
