// Pieces of pairs, which warps work off one after the other: light buckets, and listed pieces.
#pragma once

#include "kernels/cuda/collision_pairs.cuh"
#include "kernels/cuda/collision_plan.cuh"

namespace tern::kernels::crowded {

/// A piece of pairs as its warp meets it.
template <class Tiles, class Id>
struct PairPiece {
  using Pairs = PairProducts<Tiles, Id>;
  static constexpr bool is_exact = Tiles::is_exact;
  const ProductWork<Id>& w;
  CrowdedBucket bucket;
  std::uint32_t number;
  int begin;

  /// Word `lane` of the bucket, then the number: what a lane keeps of a piece that comes later.
  __device__ __forceinline__ static std::uint32_t load_word(const ProductWork<Id>& w, Piece piece) {
    const std::uint32_t lane = threadIdx.x % warp_lanes;
    if (lane >= sizeof(CrowdedBucket) / 4) return piece.number;
    const CrowdedBuckets& crowded = w.p.collisions.crowded;
    const CrowdedBucket* bucket = crowded.buckets + w.segment * crowded.capacity + piece.bucket;
    return reinterpret_cast<const std::uint32_t*>(bucket)[lane];
  }
  __device__ __forceinline__ PairPiece(const ProductWork<Id>& work, std::uint32_t word) : w(work) {
    const auto at = [&](int lane) { return __shfl_sync(0xFFFFFFFFu, word, lane); };
    bucket = {
        static_cast<std::int32_t>(at(0)), static_cast<std::int32_t>(at(1)), at(2), at(3), at(4), at(5), at(6)};
    number = at(7);
    begin = w.p.sequences.offsets[bucket.sequence];
  }

  __device__ __forceinline__ std::uint32_t partner_parts() const {
    return w.plan.in_order ? 1 : parts(bucket.partner_count, piece_partners);
  }
  __device__ __forceinline__ RowRun<Id> own() const {
    const std::uint32_t cuts = partner_parts();
    const std::uint32_t first = (cuts == 1 ? number : number / cuts) * Pairs::own_rows;
    return own_run(w.p, bucket, begin, first, min(Pairs::own_rows, bucket.own_count - first));
  }
  __device__ __forceinline__ RowRun<Id> partners() const {
    const std::uint32_t cuts = partner_parts();
    const std::uint32_t first = (cuts == 1 ? 0 : number % cuts) * piece_partners;
    const std::uint32_t left = bucket.partner_count - first;
    return partner_run(w.p, bucket, begin, first, w.plan.in_order ? left : min(piece_partners, left));
  }
  /// Windows have their own.
  __device__ __forceinline__ typename Pairs::Ids ids() const {
    if constexpr (is_exact) {
      if (takes_windows(w.p, bucket)) return {};
    }
    return Pairs::ids_of(own(), partners());
  }

  __device__ __forceinline__ void run(Tiles& memory, const typename Pairs::Ids& ids) const {
    const Pairs pairs{w.p, memory, begin, bucket.list / w.p.collisions.hashes, 1, w.plan.in_order};
    if constexpr (is_exact) {
      if (takes_windows(w.p, bucket)) return run_windows(memory);
    }
    pairs.run(static_cast<int>(own().count), partners(), ids);
  }

 private:
  __device__ void run_windows(Tiles& memory) const {
    const BucketSides rows = sides_of(w.p, bucket);
    const Pairs pairs{w.p,
                      memory,
                      begin,
                      bucket.list / w.p.collisions.hashes,
                      static_cast<float>(rows.keys) / static_cast<float>(window_keys),
                      w.plan.in_order};
    const bool is_alone = w.plan.in_order && !w.p.own_is_query, own_is_query = w.p.own_is_query;
    const std::uint32_t last = is_alone ? parts(rows.queries, window_queries) : number + 1;
    for (std::uint32_t i = number; i < last; ++i) {
      const std::uint32_t place = window_place(w.p, bucket, i), start = i * window_queries,
                          count = min(window_queries, rows.queries - start);
      const auto partners = own_is_query ? partner_run(w.p, bucket, begin, place, window_keys)
                                         : partner_run(w.p, bucket, begin, start, count);
      const std::uint32_t own_count = own_is_query ? count : window_keys;
      for (std::uint32_t k = 0; k < own_count; k += Pairs::own_rows) {
        const std::uint32_t first = (own_is_query ? start : place) + k;
        const auto own =
            own_run(w.p, bucket, begin, first < bucket.own_count ? first : first - bucket.own_count,
                    min(Pairs::own_rows, own_count - k));
        pairs.run(static_cast<int>(own.count), partners, Pairs::ids_of(own, partners));
      }
      __syncwarp();
    }
  }
};

/// A light bucket as its warp meets it.
template <class Tiles, class Id>
struct LightBucket {
  using Pairs = PairProducts<Tiles, Id>;
  static constexpr int bucket_words = sizeof(CrowdedBucket) / 4;
  RowRun<Id> own, partners;
  int list, begin;
  typename Pairs::Ids ids;

  /// Word `lane` of bucket i of `count`.
  __device__ __forceinline__ static std::uint32_t load_word(const ProductWork<Id>& w, std::uint32_t i,
                                                            std::uint32_t count) {
    const CrowdedBuckets& crowded = w.p.collisions.crowded;
    const auto lane = threadIdx.x % warp_lanes;
    const CrowdedBucket* bucket = crowded.buckets + w.segment * crowded.capacity + i;
    return lane < bucket_words && i < count ? reinterpret_cast<const std::uint32_t*>(bucket)[lane] : 0;
  }

  LightBucket() = default;
  /// No own rows where the bucket is not light.
  __device__ __forceinline__ LightBucket(const ProductWork<Id>& w, std::uint32_t word) {
    const auto at = [&](int lane) { return __shfl_sync(0xFFFFFFFFu, word, lane); };
    const CrowdedBucket bucket{
        static_cast<std::int32_t>(at(0)), static_cast<std::int32_t>(at(1)), at(2), at(3), at(4), at(5), at(6)};
    own.count = 0;
    if (!is_light(bucket)) return;
    list = bucket.list;
    begin = w.p.sequences.offsets[bucket.sequence];
    own = own_run(w.p, bucket, begin, 0, bucket.own_count);
    partners = partner_run(w.p, bucket, begin, 0, bucket.partner_count);
    ids = Pairs::ids_of(own, partners);
  }
  __device__ __forceinline__ void run(const ProductWork<Id>& w, Tiles& memory) const {
    if (own.count == 0) return;
    const Pairs pairs{w.p, memory, begin, list / w.p.collisions.hashes, 1, w.plan.in_order};
    pairs.run(static_cast<int>(own.count), partners, ids);
  }
};

/// A warp works off the light ones of its buckets, which lie as far apart as there are warps: no lists, no
/// atomic turns. What leads to the rows of a bucket is fetched while earlier ones are worked off.
/// Block `block` of `blocks` that do this.
template <class Tiles, class Id>
__device__ void run_light_buckets(const ProductWork<Id>& w, Tiles& memory, unsigned block, unsigned blocks) {
  using Bucket = LightBucket<Tiles, Id>;
  const std::uint32_t warps = blockDim.x / warp_lanes, step = blocks * warps;
  std::uint32_t i = block * warps + threadIdx.x / warp_lanes;
  const std::uint32_t count = w.buckets();
  if (i >= count) return;
  Bucket bucket(w, Bucket::load_word(w, i, count));
  std::uint32_t next_word = Bucket::load_word(w, i + step, count);
#pragma unroll 1
  while (i < count) {
    i += step;
    Bucket next;
    if (i < count) {
      next = Bucket(w, next_word);
      next_word = Bucket::load_word(w, i + step, count);
    }
    bucket.run(w, memory);
    bucket = next;
  }
}

/// Each warp takes piece after piece. What leads to the rows of a piece is fetched while earlier ones are
/// worked off: its number first, then its bucket, then its ids.
template <class Tiles, class Id>
__device__ void run_pairs(const ProductWork<Id>& w, Tiles& memory) {
  using Ahead = PairPiece<Tiles, Id>;
  const std::uint32_t count = w.counts().pairs;
  if (count == 0) return;
  std::uint32_t* taken = &w.counts().pairs_taken;
  const bool is_first = threadIdx.x % warp_lanes == 0;
  const auto take = [&] { return is_first ? atomicAdd(taken, 1u) : 0; };
  const auto share = [](std::uint32_t taken_number) { return __shfl_sync(0xFFFFFFFFu, taken_number, 0); };
  const auto piece_at = [&](std::uint32_t number) { return w.plan.pairs[min(number, count - 1)]; };
  std::uint32_t first = share(take()), second = share(take()), third = share(take()), later = take();
  std::uint32_t word = Ahead::load_word(w, piece_at(first)), next_word = Ahead::load_word(w, piece_at(second));
  auto piece = piece_at(third);
  auto ids = Ahead(w, word).ids();
  while (first < count) {
    const auto next_ids = Ahead(w, next_word).ids();
    const std::uint32_t third_word = Ahead::load_word(w, piece);
    first = second;
    second = third;
    third = share(later);
    piece = piece_at(third);
    later = take();
    Ahead(w, word).run(memory, ids);
    word = next_word;
    next_word = third_word;
    ids = next_ids;
  }
}

}  // namespace tern::kernels::crowded
