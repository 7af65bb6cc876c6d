// What attention in float32 and float64 makes of the products q . k of a tile in registers. A score has
//
//   Statistics<Tiles>                             rows' running values
//   begin(statistics)                             before a block's first tile
//   weigh(statistics, lane, place, scores, sums)  scores -> weights, in place; may rescale the sums
//   finish(statistics)                            sums over the lanes of a row
//   factor(statistics, r)                         of row r of the sums
//   differentiate<keys_resident>(...)             scores -> weights for dv, slopes (dout . v) -> gradients of
//                                                 the scores, up to gradient_factor()
//
// Mathematics, clamps and polynomials are those of the CPU kernels (kernels/cpu/simd.h).
#pragma once

#include "kernels/cuda/attention_simt_tiles.cuh"

namespace tern::kernels {
namespace {

/// Where a tile of scores lies: tokens count from the first one of the sequence.
struct TilePlace {
  int row, key, key_count;  ///< first resident row, first streamed row, streamed rows that exist
  int head;
  std::int64_t token;  ///< of the sequence's first row
  std::uint32_t sample;
};

__device__ __forceinline__ float power_of_two(float x) { return exp2f(x); }
__device__ __forceinline__ double power_of_two(double x) { return exp2(x); }
__device__ __forceinline__ float square_root(float x) {
  float root;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
}
__device__ __forceinline__ double square_root(double x) { return sqrt(x); }

/// 1 - arccos(s) / pi. float: arccos(|s|) / pi = sqrt(1 - |s|) times a polynomial of degree 7 (1.5e-8).
__device__ __forceinline__ float agreement(float s) {
  const float x = fabsf(s);
  float p = -3.9898777271e-4f;
  p = p * x + 2.1131378484e-3f;
  p = p * x - 5.4256244806e-3f;
  p = p * x + 9.8239189011e-3f;
  p = p * x - 1.5967757114e-2f;
  p = p * x + 2.8322358116e-2f;
  p = p * x - 6.8308886694e-2f;
  p = p * x + 4.9999999272e-1f;
  const float angle = p * square_root(1.0f - x);
  return s < 0.0f ? angle : 1.0f - angle;
}
__device__ __forceinline__ double agreement(double s) { return acos(-s) * 0.31830988618379067154; }

/// x^exponent of some numbers, for exponent >= 0.
template <class T, int count>
__device__ __forceinline__ void raise_to_power(T (&x)[count], int exponent) {
  T result[count];
#pragma unroll
  for (int i = 0; i < count; ++i) result[i] = 1;
  for (; exponent > 0; exponent >>= 1) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      if (exponent & 1) result[i] *= x[i];
      x[i] *= x[i];
    }
  }
#pragma unroll
  for (int i = 0; i < count; ++i) x[i] = result[i];
}

/// Which weights of a patch are kept. With keys resident, a patch is the transposed one.
template <bool keys_resident>
class KeptPatch {
 public:
  __device__ KeptPatch(const AttentionDropout& dropout, const TilePlace& place, int row, int key) {
    const std::int64_t resident = place.row + row, streamed = place.key + key;
    words_ =
        dropout.stream.words(place.sample, weight_dropout_block(place.head, keys_resident ? streamed : resident,
                                                                keys_resident ? resident : streamed));
  }
  /// Of row r and key j of the lane, whose odd and even keys change places if `flip`.
  __device__ bool keeps(int r, int j, int flip, std::uint32_t threshold) const {
    const std::uint32_t low = words_.word[keys_resident ? r & 1 : (r & 1) * 2],
                        high = words_.word[keys_resident ? 2 + (r & 1) : (r & 1) * 2 + 1];
    const std::uint32_t word = ((j & 1) ^ flip) ? high : low;
    const int byte = keys_resident ? (j & 2) + (r >> 1 & 1) : (r & 2) + (j >> 1 & 1);
    return (word >> (8 * byte) & 0xFFu) >= threshold;
  }

 private:
  PhiloxWords words_;
};

template <class T>
struct SoftmaxScore {
  static constexpr bool has_statistics = true;
  double scale;
  T* lse_out;                               ///< forward
  const T *lse = nullptr, *dots = nullptr;  ///< backward; dots [heads, tokens] = sum_c dout out
  std::int64_t tokens;
  AttentionDropout dropout;
  std::uint32_t threshold;
  T keep_factor;

  template <class Tiles>
  struct Statistics {
    T top[Tiles::thread_rows], total[Tiles::thread_rows];
  };

  template <class Tiles>
  __device__ void begin(Statistics<Tiles>& statistics) const {
#pragma unroll
    for (int r = 0; r < Tiles::thread_rows; ++r) {
      statistics.top[r] = -INFINITY;
      statistics.total[r] = 0;
    }
  }

  /// Scores times scale log2 e; -infinity where there is no streamed row.
  template <class Tiles>
  __device__ void scale_scores(const typename Tiles::Lane& lane, const TilePlace& place,
                               typename Tiles::Scores& scores) const {
    const T factor = static_cast<T>(scale * 1.44269504088896340736);
#pragma unroll
    for (int r = 0; r < Tiles::thread_rows; ++r)
#pragma unroll
      for (int j = 0; j < Tiles::thread_keys; ++j) scores[r][j] *= factor;
    if (place.key_count >= Tiles::keys) return;
#pragma unroll
    for (int j = 0; j < Tiles::thread_keys; ++j)
      if (lane.key(j) >= place.key_count)
#pragma unroll
        for (int r = 0; r < Tiles::thread_rows; ++r) scores[r][j] = -INFINITY;
  }

  template <class Tiles>
  __device__ __forceinline__ void weigh(Statistics<Tiles>& statistics, const typename Tiles::Lane& lane,
                                        const TilePlace& place, typename Tiles::Scores& scores,
                                        typename Tiles::Sums& sums) const {
    scale_scores<Tiles>(lane, place, scores);
#pragma unroll
    for (int r = 0; r < Tiles::thread_rows; ++r) {
      T top = statistics.top[r];
#pragma unroll
      for (int j = 0; j < Tiles::thread_keys; ++j) top = scores[r][j] > top ? scores[r][j] : top;
      top = warp_max(top, Tiles::row_lanes);
      const T rescale = power_of_two(statistics.top[r] - top);
      statistics.top[r] = top;
      T total = statistics.total[r] * rescale;
#pragma unroll
      for (int j = 0; j < Tiles::thread_keys; ++j) total += scores[r][j] = power_of_two(scores[r][j] - top);
      statistics.total[r] = total;
#pragma unroll
      for (int c = 0; c < Tiles::thread_columns; ++c) sums[r][c] *= rescale;
    }
    if (threshold == 0) return;
    for_patches<Tiles, false>(lane, place, [&](int r, int j, bool kept) {
      if (!kept) scores[r][j] = 0;
    });
  }

  template <class Tiles>
  __device__ void finish(Statistics<Tiles>& statistics) const {
#pragma unroll
    for (int r = 0; r < Tiles::thread_rows; ++r)
      statistics.total[r] = warp_sum(statistics.total[r], Tiles::row_lanes);
  }
  template <class Tiles>
  __device__ T factor(const Statistics<Tiles>& statistics, int r) const {
    return keep_factor / statistics.total[r];
  }
  template <class Tiles>
  __device__ void write_statistics(const Statistics<Tiles>& statistics, const typename Tiles::Lane& lane,
                                   const TilePlace& place, int count) const {
    if (threadIdx.x % Tiles::row_lanes != 0) return;
#pragma unroll
    for (int r = 0; r < Tiles::thread_rows; ++r)
      if (lane.row(r) < count)
        lse_out[place.head * tokens + place.token + place.row + lane.row(r)] =
            (statistics.top[r] + log2(statistics.total[r])) * static_cast<T>(0.69314718055994530942);
  }
  __device__ void clear_statistics(std::int64_t token, int head, int rows) const {
    for (int i = static_cast<int>(threadIdx.x); i < rows && token + i < tokens;
         i += static_cast<int>(blockDim.x))
      lse_out[head * tokens + token + i] = 0;
  }

  __device__ T gradient_factor() const { return static_cast<T>(scale); }

  template <class Tiles, bool keys_resident>
  __device__ __forceinline__ void differentiate(const typename Tiles::Lane& lane, const TilePlace& place,
                                                int row_count, typename Tiles::Scores& scores,
                                                typename Tiles::Scores& slopes) const {
    constexpr int count = keys_resident ? Tiles::thread_keys : Tiles::thread_rows;
    T query_lse[count], query_dot[count];
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const int query = keys_resident ? lane.key(i) : lane.row(i);
      const bool exists = query < (keys_resident ? place.key_count : row_count);
      const std::int64_t at =
          place.head * tokens + place.token + (keys_resident ? place.key : place.row) + (exists ? query : 0);
      query_lse[i] = lse[at] * static_cast<T>(1.44269504088896340736);
      query_dot[i] = dots[at];
    }
    scale_scores<Tiles>(lane, place, scores);
    if (threshold > 0)
      for_patches<Tiles, keys_resident>(lane, place, [&](int r, int j, bool kept) {
        const int query = keys_resident ? j : r;
        const T weight = power_of_two(scores[r][j] - query_lse[query]);
        scores[r][j] = kept ? weight * keep_factor : T{0};
        slopes[r][j] = weight * ((kept ? slopes[r][j] * keep_factor : T{0}) - query_dot[query]);
      });
    else
#pragma unroll
      for (int r = 0; r < Tiles::thread_rows; ++r)
#pragma unroll
        for (int j = 0; j < Tiles::thread_keys; ++j) {
          const int query = keys_resident ? j : r;
          scores[r][j] = power_of_two(scores[r][j] - query_lse[query]);
          slopes[r][j] = scores[r][j] * (slopes[r][j] - query_dot[query]);
        }
  }

  /// visit(r, j, kept) for all weights of the lane.
  template <class Tiles, bool keys_resident, class Visit>
  __device__ __forceinline__ void for_patches(const typename Tiles::Lane& lane, const TilePlace& place,
                                              Visit visit) const {
#pragma unroll
    for (int row = 0; row < Tiles::thread_rows; row += 4)
#pragma unroll
      for (int key = 0; key < Tiles::thread_keys; key += 4) {
        const KeptPatch<keys_resident> patch(dropout, place, lane.row(row), lane.key(key));
#pragma unroll
        for (int i = 0; i < 16; ++i)
          visit(row + i / 4, key + i % 4, patch.keeps(i / 4, i % 4, lane.flip, threshold));
      }
  }
};

template <class T>
struct BernoulliScore {
  static constexpr bool has_statistics = false;
  int bits;
  BernoulliGradient gradient;

  template <class Tiles>
  struct Statistics {};
  template <class Tiles>
  __device__ void begin(Statistics<Tiles>&) const {}
  template <class Tiles>
  __device__ void finish(Statistics<Tiles>&) const {}
  template <class Tiles>
  __device__ T factor(const Statistics<Tiles>&, int) const {
    return 1;
  }

  template <class Tiles>
  __device__ __forceinline__ void weigh(Statistics<Tiles>&, const typename Tiles::Lane&, const TilePlace&,
                                        typename Tiles::Scores& scores, typename Tiles::Sums&) const {
#pragma unroll
    for (int r = 0; r < Tiles::thread_rows; ++r) {
#pragma unroll
      for (int j = 0; j < Tiles::thread_keys; ++j) scores[r][j] = agreement(clamped(scores[r][j]));
      raise_to_power(scores[r], bits);
    }
  }

  __device__ T gradient_factor() const {
    return gradient == BernoulliGradient::surrogate ? static_cast<T>(bits / 2.0) : T{1};
  }

  template <class Tiles, bool keys_resident>
  __device__ __forceinline__ void differentiate(const typename Tiles::Lane&, const TilePlace&, int,
                                                typename Tiles::Scores& scores,
                                                typename Tiles::Scores& slopes) const {
    const bool is_exact = gradient == BernoulliGradient::exact;
#pragma unroll
    for (int r = 0; r < Tiles::thread_rows; ++r) {
      T base[Tiles::thread_keys], power[Tiles::thread_keys];
#pragma unroll
      for (int j = 0; j < Tiles::thread_keys; ++j) {
        const T cosine = clamped(scores[r][j]);
        base[j] = power[j] = agreement(cosine);
        if (is_exact)
          slopes[r][j] *=
              static_cast<T>(bits * 0.31830988618379067154) / square_root((T{1} - cosine) * (T{1} + cosine));
      }
      raise_to_power(power, is_exact ? bits - 1 : bits);
#pragma unroll
      for (int j = 0; j < Tiles::thread_keys; ++j) {
        slopes[r][j] *= power[j];
        scores[r][j] = is_exact ? power[j] * base[j] : power[j];
      }
    }
  }

 private:
  /// Into +-(1 - 1e-6); NaN stays.
  __device__ static T clamped(T cosine) {
    constexpr T limit = static_cast<T>(1 - 1e-6);
    return cosine > limit ? limit : cosine < -limit ? -limit : cosine;
  }
};

}  // namespace
}  // namespace tern::kernels
