// The choices of YOSO attention (Zeng et al. 2021, arXiv 2111.09714) that users, ops and kernels share.
#pragma once

#include <array>
#include <cstdint>

namespace tern {

/// Weight of the pair (i, j) in the gradients of queries and keys, where s is their cosine and
/// p = (1 - arccos(s) / pi)^bits: `surrogate` bits / 2 * p, as published; `exact` the derivative dp / ds.
enum class BernoulliGradient : std::uint8_t { surrogate, exact };

/// Where the bits of a code come from. Two rows with cosine s agree in a bit with probability 1 - arccos(s) /
/// pi. Below, width is the head width padded with zeros to the next power of two, at least 32.
///
/// - gaussian: the sign of the product with a standard normal direction rounded to bfloat16; bits are
///   independent.
/// - interleaved: signs of randomized Hadamard rotations z = H D3 H D2 H D1 x (D random signs). With
///   parts = max(bits, ceil(hashes * bits / width)), bit t of hash r is coordinate (r * bits + t) / parts of
///   rotation (r * bits + t) mod parts: the bits of one hash come from different rotations, which removes the
///   dependence of neighbouring coordinates; nearly unbiased.
/// - hadamard: as published, hash part * (width / bits) + g takes coordinates g * bits ... of rotation `part`;
///   biased low.
enum class HashFamily : std::uint8_t { gaussian, interleaved, hadamard };

/// Whether attention takes rows as they are, or scales queries and keys to length one first and its results
/// at last (rows shorter than 1e-12 stay as short, and get no gradient).
enum class BernoulliRows : std::uint8_t { given, unit };

}  // namespace tern
