// Blocks of pairs and moments of one crowded bucket, worked off by one thread block in shared memory with plain
// arithmetic.
#pragma once

#include "kernels/cuda/collision_runs.cuh"
#include "kernels/cuda/collision_weight.cuh"

namespace tern::kernels::crowded {

constexpr int threads = 128;
constexpr int side = 64;    // rows of a block of pairs
constexpr int chunk = 32;   // columns in shared memory at a time
constexpr int stride = 36;  // of rows of `chunk` columns: 16-byte aligned, no bank conflicts
constexpr int gain_stride = side + 4;

template <class A>
struct SharedTiles {
  A own[side * stride], partner[side * stride];
  A gain[side * gain_stride];  ///< or a moment, [y column][x column] with `stride`
};

/// A thread's part of `side` rows by `chunk` columns on their way to shared memory.
template <class T>
struct TilePacks {
  using A = Accumulate<T>;
  static constexpr int items = pack_items<T>, row_packs = chunk / items, count = side * row_packs / threads;
  Pack<T, items> pack[count];

  /// Columns from `first` on of the run's rows, whose sequence starts at `begin`; zeros outside.
  template <class Id>
  __device__ __forceinline__ void fetch(const Heads<const T>& rows, bool packed, std::int64_t begin, int head,
                                        const RowRun<Id>& run, int first) {
#pragma unroll
    for (int u = 0; u < count; ++u) {
      const int i = u * threads + static_cast<int>(threadIdx.x), row = i / row_packs;
      const int c = first + i % row_packs * items;
      pack[u] = {};
      if (row >= run.count || c >= rows.width) continue;
      const T* from = row_of(rows, begin + static_cast<std::int64_t>(run.row(row)), head) + c;
      if (packed) {
        pack[u] = load_pack<items>(from);
      } else {
#pragma unroll
        for (int v = 0; v < items; ++v)
          if (c + v < rows.width) pack[u].item[v] = from[v];
      }
    }
  }
  __device__ __forceinline__ void store(A* tile) const {
    constexpr int step = pack_items<A>;
#pragma unroll
    for (int u = 0; u < count; ++u) {
      const int i = u * threads + static_cast<int>(threadIdx.x);
      A* to = tile + i / row_packs * stride + i % row_packs * items;
#pragma unroll
      for (int v = 0; v < items; v += step) {
        Pack<A, step> part;
#pragma unroll
        for (int w = 0; w < step; ++w) part.item[w] = to_accumulate(pack[u].item[v + w]);
        store_pack(to + v, part);
      }
    }
  }
};

template <class T, class Id, bool is_exact>
struct CrowdedTask {
  using A = Accumulate<T>;
  using Run = RowRun<Id>;
  const CrowdedPairs<T, Id>& p;
  bool packed;  ///< rows may be read 16 bytes at a time
  CrowdedBucket bucket;
  SequenceRange range;
  int head;
  SharedTiles<A>& tiles;

  __device__ Run own(std::uint32_t start, std::uint32_t count) const {
    return own_run(p, bucket, range.begin, start, count);
  }
  __device__ Run partners(std::uint32_t start, std::uint32_t count) const {
    return partner_run(p, bucket, range.begin, start, count);
  }

  __device__ __forceinline__ void fetch(TilePacks<T>& packs, const Heads<const T>& rows, const Run& run,
                                        int first) const {
    packs.fetch(rows, packed, range.begin, head, run, first);
  }

  /// Adds four neighbouring columns to the sums, as far as they exist. With one hash a row has one bucket,
  /// whose block adds in order: the same bits with either way.
  __device__ __forceinline__ void add(A* to, int first_column, const A (&sum)[4]) const {
    if (p.collisions.crowded.segments > 1) {
#pragma unroll
      for (int v = 0; v < 4; ++v)
        if (first_column + v < p.own_x.width) to[v] += sum[v];
      return;
    }
#if __CUDA_ARCH__ >= 900
    if constexpr (sizeof(A) == 4) {
      if (p.own_x.width % 4 == 0) {
        if (first_column < p.own_x.width)
          atomicAdd(reinterpret_cast<float4*>(to), make_float4(sum[0], sum[1], sum[2], sum[3]));
        return;
      }
    }
#endif
#pragma unroll
    for (int v = 0; v < 4; ++v)
      if (first_column + v < p.own_x.width) atomicAdd(to + v, sum[v]);
  }

  // ---- blocks of pairs: thread t owns rows 8 (t / 16) .. + 7 and columns t % 16 + 16 v of the gains

  __device__ void dots(const Heads<const T>& own_rows, const Run& own_run, const Heads<const T>& partner_rows,
                       const Run& partner_run, A (&sum)[8][4]) const {
    const int row = static_cast<int>(threadIdx.x) / 16 * 8, column = static_cast<int>(threadIdx.x) % 16;
    for (int first = 0; first < p.own_x.width; first += chunk) {
      TilePacks<T> own_packs, partner_packs;
      fetch(own_packs, own_rows, own_run, first);
      fetch(partner_packs, partner_rows, partner_run, first);
      __syncthreads();
      own_packs.store(tiles.own);
      partner_packs.store(tiles.partner);
      __syncthreads();
#pragma unroll 1  // saves registers: an iteration has 128 products
      for (int c = 0; c < chunk; c += 4) {
        Pack<A, 4> b[4];
#pragma unroll
        for (int v = 0; v < 4; ++v) b[v] = load_pack<4>(tiles.partner + (column + 16 * v) * stride + c);
#pragma unroll
        for (int u = 0; u < 8; ++u) {
          const Pack<A, 4> a = load_pack<4>(tiles.own + (row + u) * stride + c);
#pragma unroll
          for (int v = 0; v < 4; ++v) {
#pragma unroll
            for (int w = 0; w < 4; ++w) sum[u][v] += a.item[w] * b[v].item[w];
          }
        }
      }
    }
  }

  /// Pairs of two runs of at most `side` rows.
  __device__ void pairs(const Run& own_run, const Run& partner_run, A scale) const {
    const int thread = static_cast<int>(threadIdx.x);
    TilePacks<T> packs;
    fetch(packs, p.partner_x, partner_run, 0);
    A gain[8][4] = {};
    dots(p.own_y, own_run, p.partner_y, partner_run, gain);
    if constexpr (is_exact) {
      A cosine[8][4] = {};
      dots(p.own_x, own_run, p.partner_x, partner_run, cosine);
#pragma unroll
      for (int u = 0; u < 8; ++u) {
#pragma unroll
        for (int v = 0; v < 4; ++v) gain[u][v] *= scale * exact_weight(cosine[u][v]);
      }
    }
#pragma unroll
    for (int u = 0; u < 8; ++u) {
#pragma unroll
      for (int v = 0; v < 4; ++v)
        tiles.gain[(thread / 16 * 8 + u) * gain_stride + thread % 16 + 16 * v] = gain[u][v];
    }
    for (int first = 0; first < p.own_x.width; first += chunk) {
      __syncthreads();
      packs.store(tiles.partner);
      __syncthreads();
      fetch(packs, p.partner_x, partner_run, first + chunk);
      multiply_add(own_run, first, tiles.gain, gain_stride, side, tiles.partner);
    }
  }

  /// own_i[first + c] += sum over k < depth of left[i][k] right[k][c], four rows by four columns a thread.
  __device__ void multiply_add(const Run& own_run, int first, const A* left, int left_stride, int depth,
                               const A* right) const {
    const int row = static_cast<int>(threadIdx.x) / 8 * 4, column = static_cast<int>(threadIdx.x) % 8 * 4;
    A* to[4];
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      if (row + u >= own_run.count) break;
      const std::int64_t token = range.begin + static_cast<std::int64_t>(own_run.row(row + u));
      to[u] = p.sums + (head * p.own_x.tokens + token) * p.own_x.width + first + column;
    }
    A sum[4][4] = {};
#pragma unroll 1
    for (int k = 0; k < depth; k += 4) {
      Pack<A, 4> a[4];
#pragma unroll
      for (int u = 0; u < 4; ++u) a[u] = load_pack<4>(left + (row + u) * left_stride + k);
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const Pack<A, 4> b = load_pack<4>(right + (k + w) * stride + column);
#pragma unroll
        for (int u = 0; u < 4; ++u) {
#pragma unroll
          for (int v = 0; v < 4; ++v) sum[u][v] += a[u].item[w] * b.item[v];
        }
      }
    }
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      if (row + u >= own_run.count) break;
      add(to[u], first + column, sum[u]);
    }
  }

  __device__ void all_pairs() const {
    for (std::uint32_t i = 0; i < bucket.own_count; i += side) {
      const Run own_run = own(i, min(std::uint32_t{side}, bucket.own_count - i));
      for (std::uint32_t j = 0; j < bucket.partner_count; j += side)
        pairs(own_run, partners(j, min(std::uint32_t{side}, bucket.partner_count - j)), A{1});
    }
  }

  __device__ void windows() const {
    const BucketSides rows = sides_of(p, bucket);
    const A scale = static_cast<A>(rows.keys) / static_cast<A>(window_keys);
    for (std::uint32_t i = 0; i < rows.queries; i += window_queries) {
      const std::uint32_t count = min(window_queries, rows.queries - i),
                          place = window_place(p, bucket, i / window_queries);
      if (p.own_is_query)
        pairs(own(i, count), partners(place, window_keys), scale);
      else
        pairs(own(place, window_keys), partners(i, count), scale);
    }
  }

  // ---- moments: thread t owns y columns 4 (t % 8) .. + 3 and x columns 2 (t / 8), + 1

  __device__ void build_moment(int first_x, int first_y) const {
    const int x = static_cast<int>(threadIdx.x) / 8 * 2, y = static_cast<int>(threadIdx.x) % 8 * 4;
    A sum[4][2] = {};
    TilePacks<T> x_packs, y_packs;
    const auto fetch_rows = [&](std::uint32_t j) {
      const Run run = partners(j, min(std::uint32_t{side}, bucket.partner_count - j));
      fetch(x_packs, p.partner_x, run, first_x);
      fetch(y_packs, p.partner_y, run, first_y);
    };
    fetch_rows(0);
    for (std::uint32_t j = 0; j < bucket.partner_count; j += side) {
      __syncthreads();
      x_packs.store(tiles.own);
      y_packs.store(tiles.partner);
      __syncthreads();
      if (j + side < bucket.partner_count) fetch_rows(j + side);
      A part[4][2] = {};  // short chains of additions keep the rounding error of long buckets small
#pragma unroll 4
      for (int row = 0; row < side; ++row) {
        const Pack<A, 2> a = load_pack<2>(tiles.own + row * stride + x);
        const Pack<A, 4> b = load_pack<4>(tiles.partner + row * stride + y);
#pragma unroll
        for (int u = 0; u < 4; ++u) {
#pragma unroll
          for (int v = 0; v < 2; ++v) part[u][v] += b.item[u] * a.item[v];
        }
      }
#pragma unroll
      for (int u = 0; u < 4; ++u) {
#pragma unroll
        for (int v = 0; v < 2; ++v) sum[u][v] += part[u][v];
      }
    }
#pragma unroll
    for (int u = 0; u < 4; ++u) {
#pragma unroll
      for (int v = 0; v < 2; ++v) tiles.gain[(y + u) * stride + x + v] = sum[u][v];
    }
  }

  __device__ void moments() const {
    for (int first_x = 0; first_x < p.own_x.width; first_x += chunk) {
      for (int first_y = 0; first_y < p.own_x.width; first_y += chunk) {
        build_moment(first_x, first_y);
        TilePacks<T> packs;
        const auto run_at = [&](std::uint32_t i) {
          return own(i, min(std::uint32_t{side}, bucket.own_count - i));
        };
        fetch(packs, p.own_y, run_at(0), first_y);
        for (std::uint32_t i = 0; i < bucket.own_count; i += side) {
          __syncthreads();
          packs.store(tiles.own);
          __syncthreads();
          if (i + side < bucket.own_count) fetch(packs, p.own_y, run_at(i + side), first_y);
          multiply_add(run_at(i), first_x, tiles.own, stride, chunk, tiles.gain);
        }
        __syncthreads();
      }
    }
  }

  __device__ void run() const {
    if constexpr (is_exact) {
      if (takes_windows(p, bucket)) return windows();
    } else {
      if (is_fuller(bucket, static_cast<std::uint32_t>(p.own_x.width))) return moments();
    }
    all_pairs();
  }
};

}  // namespace tern::kernels::crowded
