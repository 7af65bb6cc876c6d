// Locality-sensitive hashing for sampled Bernoulli attention (YOSO; Zeng et al. 2021, arXiv 2111.09714): codes
// of rows, sums over colliding rows, gradients over colliding pairs. All kernels work on ragged batches; tokens
// of different sequences or heads never meet. Results do not depend on the number of threads.
// Rows outside all sequences, which only CUDA meets, get zeros.
#pragma once

#include <cstdint>

#include "kernels/layer_norm.h"
#include "kernels/view.h"
#include "tern/bernoulli.h"
#include "tern/device.h"

namespace tern::kernels {

/// hashes >= 1; bits 1 .. 16 with 16-bit codes, up to 20 with 32-bit codes.
struct HashShape {
  HashFamily family;
  int hashes, bits;
};

/// Coordinates of the random draws of hashing inside one stream and sample: block = purpose, head, element / 4,
/// four elements a block. Element of `directions`: (hash * bits + bit) * head_width + c. Element of `signs`:
/// (rotation * 3 + round) * width + c, negative where the word's top bit is set, round 0 applied first. Element
/// of `window`: 4 * (hash << 20 | code), its first word.
struct HashDraw {
  enum Purpose : std::uint64_t { directions = 0, signs = 1, window = 2 };
  TERN_HOST_DEVICE static constexpr std::uint64_t block(Purpose purpose, int head, std::uint64_t element) {
    return purpose << 62 | static_cast<std::uint64_t>(head) << 48 | element / 4;
  }
};

/// codes[(head * hashes + r) * tokens + token]: bit t of hash r is 1 where its projection is above 0, ties give
/// 0. The directions depend on (stream, sample, head) only: calls for queries and for keys with one stream
/// agree, and codes do not change with the place of a sequence in the batch. Codes do not depend on the scale
/// of a row. Code is std::uint16_t or std::uint32_t. Cost tokens * hashes * bits * head_width.
template <class T, class Code, Isa isa>
void hash_codes(Cpu<isa>&, const Sequences& sequences, Heads<const T> x, HashShape shape,
                const RandomStream& stream, Code* codes);
template <class T, class Code>
void hash_codes(Cuda&, const Sequences& sequences, Heads<const T> x, HashShape shape,
                const RandomStream& stream, Code* codes);
/// Codes of queries and of keys at once: on CUDA their directions are drawn once.
template <class T, class Code, Isa isa>
void hash_codes(Cpu<isa>& cpu, const Sequences& sequences, Heads<const T> q, Heads<const T> k, HashShape shape,
                const RandomStream& stream, Code* q_codes, Code* k_codes) {
  hash_codes<T, Code>(cpu, sequences, q, shape, stream, q_codes);
  hash_codes<T, Code>(cpu, sequences, k, shape, stream, k_codes);
}
/// The first head is number first_head of the streams.
template <class T, class Code>
void hash_codes(Cuda&, const Sequences& sequences, Heads<const T> q, Heads<const T> k, HashShape shape,
                const RandomStream& stream, Code* q_codes, Code* k_codes, int first_head = 0);

/// out_i = 1 / hashes * sum over r and over j of the same sequence with source_code_r(j) == code_r(i) of
/// value_j. Overwrites out. Cost tokens * hashes * head_width for any data; memory linear in the longest
/// sequence. The gradient of `value` is the same sum with the codes exchanged and dy as value.
template <class T, class Code, Isa isa>
void bucket_sum(Cpu<isa>&, const Sequences& sequences, HashShape shape, const Code* source_codes,
                Heads<const T> value, const Code* codes, Heads<T> out);
template <class T, class Code>
void bucket_sum(Cuda&, const Sequences& sequences, HashShape shape, const Code* source_codes,
                Heads<const T> value, const Code* codes, Heads<T> out);

/// bucket_sum with the rows of out scaled to length one at last; norm, of width 1, is what they had before.
template <class T, class Code, Isa isa>
void unit_bucket_sum(Cpu<isa>&, const Sequences& sequences, HashShape shape, const Code* source_codes,
                     Heads<const T> value, const Code* codes, Heads<T> out, Heads<T> norm);
template <class T, class Code>
void unit_bucket_sum(Cuda&, const Sequences& sequences, HashShape shape, const Code* source_codes,
                     Heads<const T> value, const Code* codes, Heads<T> out, Heads<Accumulate<T>> norm);

/// Operands of collision_gradients. q and k are rows of length one; codes as hash_codes wrote them.
template <class T, class Code>
struct CollisionGradients {
  const Code* q_codes;
  const Code* k_codes;
  Heads<const T> q, k, v, dy;
  BernoulliGradient gradient;
  Heads<T> dq, dk, dv;
};

/// dq_i = sum_j C_ij (dy_i . v_j) w_ij k_j, dk_j = sum_i C_ij (dy_i . v_j) w_ij q_i and dv_j = sum_i C_ij dy_i,
/// where C_ij is the share of the hashes in which query i and key j of one sequence collide; w_ij = bits / 2
/// (surrogate) or bits / ((pi - arccos s) sqrt(1 - s^2)) with s = q_i . k_j clamped to +-(1 - 1e-6) (exact).
/// Overwrites dq, dk and dv. Bounded for any data: a bucket with a queries and b keys, h = 2 a b / (a + b),
/// costs min(a b, (a + b) head_width) rows. `exact` has no closed form for a bucket: where h > 64, a query
/// meets 64 keys, a cyclic window into the bucket from a random offset drawn from `stream`, with weight b / 64:
/// that keeps the mean.
template <class T, class Code, Isa isa>
void collision_gradients(Cpu<isa>&, const Sequences& sequences, HashShape shape, const RandomStream& stream,
                         const CollisionGradients<T, Code>& operands);
template <class T, class Code>
void collision_gradients(Cuda&, const Sequences& sequences, HashShape shape, const RandomStream& stream,
                         const CollisionGradients<T, Code>& operands);

/// Gradients of `y`, rows that unit_bucket_sum scaled, at operands.dy, with respect to rows q and k of any
/// length, which are scaled to length one first, and to v. On CUDA scaled rows exist for a few heads at a time,
/// and so do codes where operands.q_codes and k_codes are null: they are hashed again from `stream`.
template <class T, class Code, Isa isa>
void unit_collision_gradients(Cpu<isa>&, const Sequences& sequences, HashShape shape,
                              const RandomStream& stream, const CollisionGradients<T, Code>& operands,
                              const UnitRows<T>& y);
template <class T, class Code>
void unit_collision_gradients(Cuda&, const Sequences& sequences, HashShape shape, const RandomStream& stream,
                              const CollisionGradients<T, Code>& operands, const UnitRows<T>& y);

}  // namespace tern::kernels
