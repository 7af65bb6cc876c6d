// How sequences are divided among blocks that read their rows unit by unit.
#pragma once

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ragged.cuh"

namespace tern::kernels {

constexpr int unit_rows = 64;  // that a block asks for at once

/// A block's part of a (sequence, head): `count` units of rows. Units start at a multiple of 8 tokens of the
/// batch, the first at or before the sequence's first.
struct Run {
  SequenceRange range;
  int head, first_row, count;

  __device__ __forceinline__ Run(const Sequences& sequences, int heads, int runs) {
    const int pair = static_cast<int>(blockIdx.x) / runs;  // sequences that are empty come last
    range = sequence_range(sequences, pair / heads);
    head = pair % heads;
    const int lead = range.begin % 8, units = (range.length + lead + unit_rows - 1) / unit_rows;
    const int each = (units + runs - 1) / runs, first = static_cast<int>(blockIdx.x) % runs * each;
    first_row = first * unit_rows - lead;
    count = min(each, units - first);
  }
};

/// Among how many blocks a sequence is divided, where a multiprocessor holds `together` blocks and `each`
/// blocks read the same rows or other heads of them: of the divisions that fill 1, 2, .. waves the one of the
/// least time in units, for sequences of one length; a block's start takes two.
inline int runs_of(const Cuda& cuda, const Sequences& sequences, int together, int each) {
  constexpr int most_waves = 8, start = 2;
  const std::int64_t longest = sequences.longest, slots = std::int64_t{cuda.multiprocessors} * together;
  const std::int64_t units = (longest + unit_rows - 1) / unit_rows,
                     full = std::clamp((sequences.tokens + longest - 1) / longest, std::int64_t{1},
                                       std::max(sequences.count, std::int64_t{1})) *
                            each;
  std::int64_t best = 1, least = 0;
  for (int waves = 1; waves <= most_waves; ++waves) {
    const std::int64_t most = std::clamp<std::int64_t>(slots * waves / full, 1, units);
    const std::int64_t of_run = (units + most - 1) / most, runs = (units + of_run - 1) / of_run;
    const std::int64_t time = (runs * full + slots - 1) / slots * (of_run + start);
    if (waves > 1 && time >= least) continue;
    best = runs;
    least = time;
  }
  return static_cast<int>(best);
}

}  // namespace tern::kernels
