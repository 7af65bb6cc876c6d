// The sort of all sequences, heads and rounds at once: one stable radix sort by (list, sequence, code), after
// which each list's tokens stand in their own stretch. Deterministic. Cost: a pass over 24 bytes an item for
// each 8 bits of the keys.
#include <bit>

#include <cub/device/device_radix_sort.cuh>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ragged.cuh"
#include "kernels/sorted_attention.h"

namespace tern::kernels {
namespace {

constexpr int threads_per_block = 256;

/// Rows outside all sequences come behind the last one in each list.
__global__ void __launch_bounds__(threads_per_block)
    make_keys(Sequences sequences, TokenSort sort, std::uint64_t* key, std::int32_t* token_of) {
  for (std::int64_t i = thread_index(); i < sort.lists * sequences.tokens; i += grid_threads()) {
    const std::int64_t list = i / sequences.tokens;
    const auto token = static_cast<int>(i % sequences.tokens);
    const int sequence = find_sequence(sequences, token).index;
    const int rank = sequence == sequences.count ? 0 : sort.rank(sort.codes[i]);
    key[i] = static_cast<std::uint64_t>(list * (sequences.count + 1) + sequence) << sort.bits |
             static_cast<std::uint64_t>(rank);
    token_of[i] = token;
  }
}

__global__ void __launch_bounds__(threads_per_block) find_segments(Sequences sequences, TokenSort sort) {
  for (std::int64_t i = thread_index(); i < sort.lists * sequences.tokens; i += grid_threads()) {
    const std::int64_t list_begin = i / sequences.tokens * sequences.tokens;
    const int token = sort.order[i];
    const SequenceRange range = find_sequence(sequences, token);
    const int place = static_cast<int>(i - list_begin) - range.begin;
    sort.segment[list_begin + token] =
        range.index == sequences.count
            ? 0
            : sort.rule.segment(sort.rank(sort.codes[list_begin + token]), place, range.length);
  }
}

}  // namespace

void sort_tokens(Cuda& cuda, const Sequences& sequences, const TokenSort& sort) {
  const std::int64_t count = sort.lists * sequences.tokens;
  if (count == 0) return;
  const Scratch<std::uint64_t> keys(cuda, 2 * count);
  const Scratch<std::int32_t> tokens(cuda, count);
  const unsigned blocks = grid_for(cuda, count, threads_per_block);
  make_keys<<<blocks, threads_per_block, 0, cuda.stream>>>(sequences, sort, keys.data(), tokens.data());
  check_launch("sort_tokens: keys");
  const int bits =
      sort.bits + std::bit_width(static_cast<std::uint64_t>(sort.lists * (sequences.count + 1) - 1));
  std::size_t bytes = 0;
  const auto radix_sort = [&](void* memory) {
    check_cuda(
        cub::DeviceRadixSort::SortPairs(memory, bytes, keys.data(), keys.data() + count, tokens.data(),
                                        sort.order, static_cast<std::int32_t>(count), 0, bits, cuda.stream),
        "sort_tokens");
  };
  radix_sort(nullptr);
  const Scratch<std::byte> memory(cuda, static_cast<std::int64_t>(bytes));
  radix_sort(memory.data());
  find_segments<<<blocks, threads_per_block, 0, cuda.stream>>>(sequences, sort);
  check_launch("sort_tokens: segments");
}

}  // namespace tern::kernels
