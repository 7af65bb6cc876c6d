// Host views of head rows: how they may be read, and some of the heads.
#pragma once

#include <type_traits>

#include "kernels/cuda/block.cuh"
#include "kernels/view.h"

namespace tern::kernels {

/// Whether rows may be read `items` elements at a time.
template <class T>
bool rows_move_by(const Heads<T>& x, int items) {
  return is_aligned(items * sizeof(T), x.data) && x.width % items == 0 && x.token_stride % items == 0 &&
         x.head_stride % items == 0;
}

/// Whether rows may be read 16 bytes at a time.
template <class T>
bool rows_are_packed(const Heads<T>& x) {
  return rows_move_by(x, pack_items<std::remove_const_t<T>>);
}

/// `count` heads from `first` on.
template <class T>
Heads<T> heads_from(Heads<T> x, int first, int count) {
  x.data += first * x.head_stride;
  x.heads = count;
  return x;
}

/// `data` as packed rows of x's extents.
template <class T, class Data>
Heads<Data> packed_like(const Heads<T>& x, Data* data, int width) {
  return {data, x.tokens, x.heads, width, static_cast<std::int64_t>(x.heads) * width, width};
}

}  // namespace tern::kernels
