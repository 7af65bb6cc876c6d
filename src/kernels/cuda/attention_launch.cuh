// From a task of attention to the launch of one of its kernels.
#pragma once

#include <type_traits>

#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_products.cuh"

namespace tern::kernels {

/// Calls body with the scores as a constant.
template <class Body>
void with_scores(Scores scores, Body&& body) {
  switch (scores) {
    case Scores::softmax:
      return body(std::integral_constant<Scores, Scores::softmax>{});
    case Scores::dropped_softmax:
      return body(std::integral_constant<Scores, Scores::dropped_softmax>{});
    case Scores::bernoulli:
      return body(std::integral_constant<Scores, Scores::bernoulli>{});
  }
}

template <class T>
bool has_packs(const Heads<T>& x) {
  return is_aligned(16, x.data) && x.token_stride % 8 == 0 && x.head_stride % 8 == 0;
}

constexpr int widest_head = 256;

template <class Shape>
AttentionArguments attention_arguments(const AttentionTask& task) {
  const auto& [q, k, v] = task.in;
  require(q.width <= widest_head,
          "attention in bfloat16: heads must have at most {} columns, got {}; use more heads or "
          "run.precision=float32",
          widest_head, q.width);
  return {task.sequences,
          q,
          k,
          v,
          task.rule,
          tile_slots(task.sequences, Shape::rows),
          has_packs(q) && has_packs(k) && has_packs(v),
          task.keys};
}

template <class Shape, class Arguments>
void launch_attention(Cuda& cuda, void (*kernel)(Arguments), const Arguments& arguments, int memory,
                      const char* name) {
  const AttentionArguments& common = arguments.common;
  const std::int64_t blocks = common.slots * common.q.heads * Shape::slices;
  if (common.sequences.tokens == 0 || common.q.heads == 0) return;
  require(blocks < std::int64_t{1} << 31,
          "attention: tokens * heads / {} must lie below 2^31, got {} tokens and {} heads; use smaller batches",
          Shape::rows, common.sequences.tokens, common.q.heads);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, memory), name);
  kernel<<<static_cast<unsigned>(blocks), Shape::threads, static_cast<std::size_t>(memory), cuda.stream>>>(
      arguments);
  check_launch(name);
}

}  // namespace tern::kernels
