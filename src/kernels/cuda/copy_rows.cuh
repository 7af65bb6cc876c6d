// Rows of heads moved to other strides.
#pragma once

#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/ragged.cuh"

namespace tern::kernels {

constexpr int copy_threads = 256;

/// Neighbouring threads take neighbouring packs of a row.
template <int items, class T>
__global__ void __launch_bounds__(copy_threads) copy_packs(Heads<const T> from, Heads<T> to) {
  const auto packs = static_cast<std::uint32_t>(from.width / items),
             heads = static_cast<std::uint32_t>(from.heads);
  const std::int64_t count = from.tokens * heads * packs;
  for (std::int64_t i = thread_index(); i < count; i += grid_threads()) {
    const std::int64_t row = i / packs, token = row / heads;
    const auto column = static_cast<int>(i - row * packs) * items, head = static_cast<int>(row - token * heads);
    store_pack(row_of(to, token, head) + column, load_pack<items>(row_of(from, token, head) + column));
  }
}

template <class T>
void copy_rows(Cuda& cuda, const Heads<const T>& from, const Heads<T>& to) {
  constexpr int most = pack_items<T>;
  const bool is_packed = rows_are_packed(from) && rows_are_packed(to);
  const std::int64_t packs = from.tokens * from.heads * from.width / (is_packed ? most : 1);
  if (packs == 0) return;
  const unsigned blocks = grid_for(cuda, packs, copy_threads);
  if (is_packed)
    copy_packs<most, T><<<blocks, copy_threads, 0, cuda.stream>>>(from, to);
  else
    copy_packs<1, T><<<blocks, copy_threads, 0, cuda.stream>>>(from, to);
  check_launch("copy_rows");
}

}  // namespace tern::kernels
