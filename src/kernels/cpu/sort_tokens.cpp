// Stable sorts of the tokens of each sequence and list by their codes: radix sorts from the last digit on
// (Knuth, The Art of Computer Programming 3, 5.2.5).
#include <algorithm>

#include "base/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/sorted_attention.h"

namespace tern::kernels {
namespace {

constexpr int most_digit_bits = 10;

struct SortScratch {
  SortScratch(Layout& layout, int digits, int tokens)
      : place(layout.take<std::int32_t>(digits + 1)), token(layout.take<std::int32_t>(tokens)) {}
  std::int32_t* place;  ///< of the next token with each digit
  std::int32_t* token;  ///< sorted by the digits behind
};

/// Sorts the tokens `begin` .. `end` - 1 of one list.
void sort_sequence(const TokenSort& sort, std::int64_t list_begin, std::int32_t begin, std::int32_t end) {
  const int tokens = end - begin, passes = (sort.bits + most_digit_bits - 1) / most_digit_bits,
            digit_bits = (sort.bits + passes - 1) / passes, digits = 1 << digit_bits;
  const auto scratch = thread_scratch<SortScratch>(digits, tokens);
  const std::int32_t* const code = sort.codes + list_begin;
  std::int32_t* const order = sort.order + list_begin + begin;
  for (int i = 0; i < tokens; ++i) order[i] = begin + i;
  for (int pass = 0; pass < passes; ++pass) {
    const auto digit = [&](std::int32_t token) {
      return sort.rank(code[token]) >> (pass * digit_bits) & (digits - 1);
    };
    std::copy(order, order + tokens, scratch.token);
    std::fill(scratch.place, scratch.place + digits + 1, 0);
    for (int i = 0; i < tokens; ++i) ++scratch.place[digit(scratch.token[i]) + 1];
    for (int d = 0; d < digits; ++d) scratch.place[d + 1] += scratch.place[d];
    for (int i = 0; i < tokens; ++i) order[scratch.place[digit(scratch.token[i])]++] = scratch.token[i];
  }
  for (int i = 0; i < tokens; ++i)
    sort.segment[list_begin + order[i]] = sort.rule.segment(sort.rank(code[order[i]]), i, tokens);
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
