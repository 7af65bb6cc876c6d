// Bucket sums and collision gradients against sums over all pairs in double, with the same codes.
#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>

#include "hashing_case.h"

namespace tern::kernels::hashing_case {
namespace {

constexpr std::uint32_t step = 3;

/// How many (bucket, hash)es of each kind the data hold; h = 2 a b / (a + b) for a queries and b keys.
struct Kinds {
  int lonely = 0;      // one query and one key
  int sparse = 0;      // h <= 8: pair lists
  int dense = 0;       // h <= width: blocks
  int moments = 0;     // h > width
  double largest = 0;  // h
};

template <class T>
struct Expected {
  std::vector<double> out, gradients;  ///< gradients: dq, dk, dv
  Kinds kinds;
};

double pair_weight(BernoulliGradient gradient, int bits, double s) {
  if (gradient == BernoulliGradient::surrogate) return bits / 2.0;
  s = std::clamp(s, -1 + 1e-6, 1 - 1e-6);
  return bits / ((std::numbers::pi - std::acos(s)) * std::sqrt(1 - s * s));
}

template <class T>
double dot(const T* a, const T* b, int width) {
  double sum = 0;
  for (int c = 0; c < width; ++c) sum += static_cast<double>(a[c]) * static_cast<double>(b[c]);
  return sum;
}

template <class T, class Code>
Kinds kinds_of(const Batch<T>& batch, HashShape shape, const std::vector<Code>& q_codes,
               const std::vector<Code>& k_codes) {
  Kinds kinds;
  for (std::size_t s = 0; s < batch.lengths.size(); ++s) {
    for (std::int64_t r = 0; r < batch.heads * shape.hashes; ++r) {
      std::map<Code, std::pair<int, int>> sizes;
      for (std::int64_t i = batch.offsets[s]; i < batch.offsets[s + 1]; ++i) {
        ++sizes[q_codes[static_cast<std::size_t>(r * batch.tokens + i)]].first;
        ++sizes[k_codes[static_cast<std::size_t>(r * batch.tokens + i)]].second;
      }
      for (const auto& [code, size] : sizes) {
        const double a = size.first, b = size.second, h = 2 * a * b / (a + b);
        kinds.lonely += a == 1 && b == 1;
        kinds.sparse += h > 1 && h <= 8;
        kinds.dense += h > 8 && h <= batch.width;
        kinds.moments += h > batch.width;
        kinds.largest = std::max(kinds.largest, h);
      }
    }
  }
  return kinds;
}

template <class T, class Code>
Expected<T> expected(const Batch<T>& batch, HashShape shape, BernoulliGradient gradient,
                     const std::vector<Code>& q_codes, const std::vector<Code>& k_codes) {
  const std::size_t size = static_cast<std::size_t>(batch.tokens * batch.heads * batch.width);
  Expected<T> result{std::vector<double>(size), std::vector<double>(3 * size),
                     kinds_of(batch, shape, q_codes, k_codes)};
  double* const dq = result.gradients.data();
  double *const dk = dq + size, *const dv = dk + size;
  const auto place = [&](double* rows, std::int64_t token, int head) {
    return rows + (token * batch.heads + head) * batch.width;
  };
  for (std::size_t s = 0; s < batch.lengths.size(); ++s) {
    for (int head = 0; head < batch.heads; ++head) {
      for (std::int64_t i = batch.offsets[s]; i < batch.offsets[s + 1]; ++i) {
        for (std::int64_t j = batch.offsets[s]; j < batch.offsets[s + 1]; ++j) {
          int equal = 0;
          for (std::int64_t r = head * shape.hashes; r < (head + 1) * shape.hashes; ++r) {
            equal += q_codes[static_cast<std::size_t>(r * batch.tokens + i)] ==
                     k_codes[static_cast<std::size_t>(r * batch.tokens + j)];
          }
          if (equal == 0) continue;
          const T *q = batch.q().row(i, head), *k = batch.k().row(j, head), *v = batch.v().row(j, head);
          const double share = static_cast<double>(equal) / shape.hashes;
          const double weight = share * dot(batch.dy().row(i, head), v, batch.width) *
                                pair_weight(gradient, shape.bits, dot(q, k, batch.width));
          for (int c = 0; c < batch.width; ++c) {
            place(result.out.data(), i, head)[c] += share * static_cast<double>(v[c]);
            place(dq, i, head)[c] += weight * static_cast<double>(k[c]);
            place(dk, j, head)[c] += weight * static_cast<double>(q[c]);
            place(dv, j, head)[c] += share * static_cast<double>(batch.dy().row(i, head)[c]);
          }
        }
      }
    }
  }
  return result;
}

template <class T, class Code>
struct Codes {
  std::vector<Code> q, k;
  template <Isa isa>
  Codes(Cpu<isa>& cpu, const Batch<T>& batch, HashShape shape)
      : q(batch.template codes<Code>(shape)), k(batch.template codes<Code>(shape)) {
    hash_codes(cpu, batch.sequences(), batch.q(), shape, test_stream(step), q.data());
    hash_codes(cpu, batch.sequences(), batch.k(), shape, test_stream(step), k.data());
  }
};

template <class T, class Code, Isa isa>
std::vector<T> sums(Cpu<isa>& cpu, const Batch<T>& batch, HashShape shape, const Codes<T, Code>& codes) {
  std::vector<T> out;
  const Heads<T> view = batch.output(out);
  bucket_sum(cpu, batch.sequences(), shape, codes.k.data(), batch.v(), codes.q.data(), view);
  return out;
}

template <class T, class Code, Isa isa>
std::vector<T> gradients(Cpu<isa>& cpu, const Batch<T>& batch, HashShape shape, const Codes<T, Code>& codes,
                         BernoulliGradient gradient, const std::uint32_t& window_step = step) {
  std::vector<T> dq, dk, dv;
  const Heads<T> q_view = batch.output(dq), k_view = batch.output(dk), v_view = batch.output(dv);
  collision_gradients<T, Code>(cpu, batch.sequences(), shape, test_stream(window_step),
                               {codes.q.data(), codes.k.data(), batch.q(), batch.k(), batch.v(), batch.dy(),
                                gradient, q_view, k_view, v_view});
  dq.insert(dq.end(), dk.begin(), dk.end());
  dq.insert(dq.end(), dv.begin(), dv.end());
  return dq;
}

/// Checks sums and gradients on every level; returns the kinds of buckets met.
template <class T, class Code = std::uint16_t>
Kinds check(const Batch<T>& batch, HashShape shape, BernoulliGradient gradient) {
  SCOPED_TRACE("tokens " + std::to_string(batch.tokens) + " width " + std::to_string(batch.width) + " hashes " +
               std::to_string(shape.hashes) + " bits " + std::to_string(shape.bits) + " gradient " +
               std::to_string(static_cast<int>(gradient)));
  const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-12;
  Kinds kinds;
  for_each_isa([&](auto& cpu) {
    const Codes<T, Code> codes(cpu, batch, shape);
    const Expected<T> reference = expected(batch, shape, gradient, codes.q, codes.k);
    EXPECT_LE(largest_difference(sums(cpu, batch, shape, codes), reference.out), tolerance);
    EXPECT_LE(largest_difference(gradients(cpu, batch, shape, codes, gradient), reference.gradients),
              tolerance);
    kinds = reference.kinds;
  });
  return kinds;
}

constexpr BernoulliGradient both_gradients[] = {BernoulliGradient::surrogate, BernoulliGradient::exact};

TEST(Collisions, AnyLengthAndNumberOfHashes) {
  for (const BernoulliGradient gradient : both_gradients) {
    for (const int hashes : {1, 5, 16, 33}) {
      const HashShape shape{HashFamily::gaussian, hashes, 6};
      check(Batch<float>({0, 1, 7, 31, 33}, 2, 32), shape, gradient);
      check(Batch<double>({33, 0, 1, 31}, 2, 12), shape, gradient);
    }
  }
}

TEST(Collisions, AnyNumberOfBits) {
  for (const BernoulliGradient gradient : both_gradients) {
    for (int bits = 1; bits <= 16; ++bits) {
      check(Batch<double>({40, 7}, 1, 8), {HashFamily::gaussian, 3, bits}, gradient);
      check(Batch<float>({40, 7}, 1, 8, Directions::common_mean), {HashFamily::interleaved, 3, bits}, gradient);
    }
    const Batch<float> mean({60}, 2, 16, Directions::common_mean);
    check<float, std::uint32_t>(mean, {HashFamily::gaussian, 4, 20}, gradient);
    check<double, std::uint32_t>(Batch<double>({60}, 2, 64), {HashFamily::hadamard, 4, 9}, gradient);
  }
}

TEST(Collisions, AnyWidth) {
  for (const BernoulliGradient gradient : both_gradients) {
    for (const int width : {1, 3, 17, 48, 80, 130}) {
      // float cannot tell the weight of narrow rows, which are nearly parallel: 1 / sqrt(1 - s^2) is steep
      // there
      if (gradient == BernoulliGradient::exact && width < 16) continue;
      check(Batch<float>({50}, 1, width, Directions::common_mean), {HashFamily::gaussian, 2, 4}, gradient);
    }
  }
}

TEST(Collisions, EveryKindOfBucketIsExact) {
  const Kinds normal =
      check(Batch<float>({1000}, 1, 32), {HashFamily::gaussian, 5, 10}, BernoulliGradient::surrogate);
  EXPECT_GT(normal.lonely, 0);
  EXPECT_GT(normal.sparse, 0);
  const Kinds mean = check(Batch<double>({1000}, 1, 32, Directions::common_mean), {HashFamily::gaussian, 5, 8},
                           BernoulliGradient::surrogate);
  EXPECT_GT(mean.sparse, 0);
  EXPECT_GT(mean.dense, 0);
  EXPECT_GT(mean.moments, 0);
  const Kinds equal = check(Batch<float>({700, 33}, 1, 32, Directions::all_equal), {HashFamily::gaussian, 3, 8},
                            BernoulliGradient::surrogate);
  EXPECT_GT(equal.moments, 0);
  // wider than a block, still fewer queries and keys than columns
  const Kinds wide = check(Batch<float>({150}, 1, 160, Directions::all_equal), {HashFamily::gaussian, 2, 8},
                           BernoulliGradient::surrogate);
  EXPECT_GT(wide.dense, 0);
  EXPECT_GT(wide.largest, 64);
  const Kinds exact = check(Batch<double>({300}, 1, 16, Directions::few_directions),
                            {HashFamily::gaussian, 3, 8}, BernoulliGradient::exact);
  EXPECT_GT(exact.moments, 0);
  EXPECT_LE(exact.largest, 64);
}

/// More rows and hashes than are visited at a time, by one worker and by several that share them.
TEST(Collisions, RowsOfSeveralChunksAndBatchesOfHashes) {
  for (const int count : {1, 3}) {
    set_threads(count);
    const Kinds kinds = check(Batch<float>({1300}, 1, 16, Directions::common_mean),
                              {HashFamily::gaussian, 35, 10}, BernoulliGradient::surrogate);
    EXPECT_GT(kinds.sparse, 0);
    EXPECT_GT(kinds.moments, 0);
  }
  set_threads(0);
}

/// Rows so wide that a short sequence is visited tile by tile, with lists of pairs that fill up.
TEST(Collisions, RowsOfSeveralTiles) {
  const Batch<float> batch({2100, 40}, 1, 1000);
  const HashShape shape{HashFamily::gaussian, 20, 11};
  EXPECT_GT(check(batch, shape, BernoulliGradient::surrogate).sparse, 0);
  for_each_isa([&](auto& cpu) {
    const Codes<float, std::uint16_t> codes(cpu, batch, shape);
    set_threads(1);
    const auto slopes = gradients(cpu, batch, shape, codes, BernoulliGradient::surrogate);
    set_threads(3);
    EXPECT_EQ(slopes, gradients(cpu, batch, shape, codes, BernoulliGradient::surrogate));
    set_threads(0);
  });
}

/// Few rows of one side meet hundreds of the other: not crowded, yet more pairs of one row than a list holds.
TEST(Collisions, OneRowMayMeetMany) {
  for (const BernoulliGradient gradient : both_gradients) {
    for (const int turned : {0, 1}) {  // queries, keys
      Batch<double> batch({300}, 1, 20, Directions::all_equal);
      for (std::int64_t token = 0; token < batch.tokens; ++token) {
        double* row = batch.values.data() + (token * 3 + turned) * batch.width;
        // codes do not depend on lengths; shorter rows keep the exact weight well conditioned
        const double factor = token % 100 == 0 ? 0.9 : -0.9;
        for (int c = 0; c < batch.width; ++c) row[c] *= factor;
      }
      const Kinds kinds = check(batch, {HashFamily::gaussian, 3, 8}, gradient);
      EXPECT_GT(kinds.sparse, 0);
      EXPECT_LE(kinds.largest, 8);
    }
  }
}

/// The gradient of `value` is the same sum with the codes exchanged: <dy, C v> = <C^T dy, v>.
TEST(Collisions, BucketSumIsItsOwnTranspose) {
  const Batch<double> batch({200, 31}, 2, 24);
  const HashShape shape{HashFamily::gaussian, 7, 6};
  for_each_isa([&](auto& cpu) {
    const Codes<double, std::uint16_t> codes(cpu, batch, shape);
    std::vector<double> out, dv;
    const Heads<double> out_view = batch.output(out), dv_view = batch.output(dv);
    bucket_sum(cpu, batch.sequences(), shape, codes.k.data(), batch.v(), codes.q.data(), out_view);
    bucket_sum(cpu, batch.sequences(), shape, codes.q.data(), batch.dy(), codes.k.data(), dv_view);
    double left = 0, right = 0;
    for (std::int64_t token = 0; token < batch.tokens; ++token) {
      for (int head = 0; head < batch.heads; ++head) {
        left += dot(out_view.row(token, head), const_cast<double*>(batch.dy().row(token, head)), batch.width);
        right += dot(dv_view.row(token, head), const_cast<double*>(batch.v().row(token, head)), batch.width);
      }
    }
    EXPECT_NE(left, 0);
    EXPECT_NEAR(left, right, 1e-10 * std::abs(left));
  });
}

TEST(Collisions, ThreadsDoNotChangeBits) {
  for (const auto& [lengths, rows] : {std::pair{std::vector<int>{900, 5, 300, 0, 64}, Directions::common_mean},
                                      std::pair{std::vector<int>{700}, Directions::all_equal}}) {
    const Batch<float> batch(lengths, 2, 40, rows);
    const HashShape shape{HashFamily::gaussian, 9, 9};
    for_each_isa([&](auto& cpu) {
      const Codes<float, std::uint16_t> codes(cpu, batch, shape);
      for (const BernoulliGradient gradient : {BernoulliGradient::surrogate, BernoulliGradient::exact}) {
        set_threads(1);
        const auto out = sums(cpu, batch, shape, codes), slopes = gradients(cpu, batch, shape, codes, gradient);
        for (const int count : {2, 3, 8}) {
          set_threads(count);
          EXPECT_EQ(out, sums(cpu, batch, shape, codes));
          EXPECT_EQ(slopes, gradients(cpu, batch, shape, codes, gradient));
        }
        set_threads(0);
      }
    });
  }
}

/// Buckets above 64: single draws differ from the sum over all pairs, their mean does not.
TEST(Collisions, WindowsOfTheExactGradientAreUnbiased) {
  const Batch<double> batch({150, 90}, 1, 6, Directions::all_equal);
  const HashShape shape{HashFamily::gaussian, 3, 4};
  for_each_isa([&]<Isa isa>(Cpu<isa>& cpu) {
    if (isa != cpu_isa()) return;
    const Codes<double, std::uint16_t> codes(cpu, batch, shape);
    const Expected<double> reference = expected(batch, shape, BernoulliGradient::exact, codes.q, codes.k);
    EXPECT_GT(reference.kinds.largest, 64);
    const std::vector<double>& all = reference.gradients;
    std::vector<double> sum(all.size()), squares(all.size());
    constexpr int draws = 200;
    for (std::uint32_t draw = 0; draw < draws; ++draw) {
      const auto one = gradients(cpu, batch, shape, codes, BernoulliGradient::exact, draw);
      if (draw == 0) {
        EXPECT_GT(largest_difference(one, all), 1e-3);
      }
      for (std::size_t i = 0; i < all.size(); ++i) sum[i] += one[i], squares[i] += one[i] * one[i];
    }
    int outside = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const double mean = sum[i] / draws, variance = squares[i] / draws - mean * mean;
      outside += std::abs(mean - all[i]) > 4 * std::sqrt(variance / draws) + 1e-9 * std::abs(all[i]);
    }
    EXPECT_LE(outside, static_cast<int>(all.size() / 1000));
  });
}

TEST(Collisions, LevelsAgree) {
  const Batch<float> batch({500, 77}, 2, 32, Directions::common_mean);
  const HashShape shape{HashFamily::interleaved, 8, 9};
  Cpu<Isa::v2> base;
  const Codes<float, std::uint16_t> codes(base, batch, shape);
  const auto out = sums(base, batch, shape, codes);
  for_each_isa([&](auto& cpu) {
    EXPECT_LE(largest_difference(sums(cpu, batch, shape, codes), out), 1e-6);
    for (const BernoulliGradient gradient : {BernoulliGradient::surrogate, BernoulliGradient::exact}) {
      EXPECT_LE(largest_difference(gradients(cpu, batch, shape, codes, gradient),
                                   gradients(base, batch, shape, codes, gradient)),
                1e-5);
    }
  });
}

}  // namespace
}  // namespace tern::kernels::hashing_case
