// Attention to selected segments in bfloat16, on rows that are read in packs of 16 bytes; contracts as in
// kernels/selected_segments.h.
#pragma once

#include "kernels/cuda/heads.cuh"
#include "kernels/selected_segments.h"

namespace tern::kernels {

/// Whether the kernels below take rows like these.
template <class... Rows>
bool fits_packed_selection(const Rows&... rows) {
  return ((rows_are_packed(rows) && rows.width <= 256) && ...);
}

void selected_attention_forward_packed(Cuda&, const Sequences&, const AttentionInputs<bfloat16>&,
                                       const SelectedOptions&, Heads<bfloat16> out, float* lse);
void selected_attention_backward_packed(Cuda&, const Sequences&, const AttentionInputs<bfloat16>&,
                                        const SelectedOptions&, const SoftmaxResult<bfloat16>&,
                                        Heads<const bfloat16> dout, const AttentionGradients<bfloat16>&);

}  // namespace tern::kernels
