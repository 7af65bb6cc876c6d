// Stable counting sorts of the tokens of each sequence and list by their codes (Knuth, The Art of Computer
// Programming 3, 5.2).
#include <algorithm>

#include "base/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/sorted_attention.h"

namespace tern::kernels {
namespace {

struct Counters {
  Counters(Layout& layout, int codes) : place(layout.take<std::int32_t>(codes + 1)) {}
  std::int32_t* place;  ///< of the next token with each code
};

/// Sorts the tokens `begin` .. `end` - 1 of one list.
void sort_sequence(const TokenSort& sort, std::int64_t list_begin, std::int32_t begin, std::int32_t end) {
  const int codes = 1 << sort.bits, tokens = end - begin;
  const auto counters = thread_scratch<Counters>(codes);
  std::fill(counters.place, counters.place + codes + 1, 0);
  const std::int32_t* const code = sort.codes + list_begin;
  for (std::int32_t token = begin; token < end; ++token) ++counters.place[sort.rank(code[token]) + 1];
  for (int c = 0; c < codes; ++c) counters.place[c + 1] += counters.place[c];
  for (std::int32_t token = begin; token < end; ++token) {
    const int rank = sort.rank(code[token]), place = counters.place[rank]++;
    sort.order[list_begin + begin + place] = token;
    sort.segment[list_begin + token] = sort.rule.segment(rank, place, tokens);
  }
}

}  // namespace

template <Isa isa>
void sort_tokens(Cpu<isa>&, const Sequences& sequences, const TokenSort& sort) {
  parallel_for(sort.lists * sequences.count, 1, [&](std::int64_t item) {
    const std::int64_t sequence = item % sequences.count;
    sort_sequence(sort, item / sequences.count * sequences.tokens, sequences.offsets[sequence],
                  sequences.offsets[sequence + 1]);
  });
}

template void sort_tokens(Cpu<TERN_ISA>&, const Sequences&, const TokenSort&);

}  // namespace tern::kernels
