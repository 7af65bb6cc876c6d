#include <map>

#include "ops/hashing_sample.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

constexpr auto surrogate = BernoulliGradient::surrogate;

/// Code of row `token` of head `head` under hash `hash`.
std::int64_t code_at(const std::vector<std::int32_t>& codes, std::int64_t hashes, std::int64_t tokens,
                     std::int64_t head, std::int64_t hash, std::int64_t token) {
  return codes[static_cast<std::size_t>((head * hashes + hash) * tokens + token)];
}

/// C_ij: the share of hashes in which query i and key j of one sequence and head have one code.
std::map<std::array<std::int64_t, 3>, double> collisions(const Sample& in, const HashOptions& options,
                                                         const RandomStream& stream) {
  const auto q =
      cast(hash_codes(in.qkv[0], in.layout, options, stream), DType::int32).to_vector<std::int32_t>();
  const auto k =
      cast(hash_codes(in.qkv[1], in.layout, options, stream), DType::int32).to_vector<std::int32_t>();
  const auto offsets = in.layout.offsets.to_vector<std::int32_t>();
  std::map<std::array<std::int64_t, 3>, double> out;
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (std::int64_t h = 0; h < 2; ++h)
      for (std::int64_t i = offsets[s]; i < offsets[s + 1]; ++i)
        for (std::int64_t j = offsets[s]; j < offsets[s + 1]; ++j)
          for (std::int64_t r = 0; r < options.hashes; ++r)
            if (code_at(q, options.hashes, in.layout.tokens(), h, r, i) ==
                code_at(k, options.hashes, in.layout.tokens(), h, r, j))
              out[{h, i, j}] += 1.0 / options.hashes;
  return out;
}

/// C_ij by head, i and j.
using Shares = std::map<std::array<std::int64_t, 3>, double>;

/// y, dq, dk and dv from the share C_ij of colliding hashes: y_i = sum C_ij v_j and so on.
Arrays by_formula(const Arrays& qkv, const Shares& shares, const HashOptions& options,
                  BernoulliGradient gradient, const Array& g) {
  const Array &q = qkv[0], &k = qkv[1], &v = qkv[2];
  const std::int64_t width = q.size(2);
  Arrays out(4, Array(q.shape));
  for (const auto& [at, share] : shares) {
    const std::int64_t a = (at[1] * 2 + at[0]) * width, b = (at[2] * 2 + at[0]) * width;
    double dot = 0, cosine = 0;
    for (std::int64_t c = 0; c < width; ++c) dot += g[a + c] * v[b + c], cosine += q[a + c] * k[b + c];
    const double s = std::clamp(cosine, -cosine_limit, cosine_limit), pi = std::numbers::pi;
    const double weight = share * dot * options.bits *
                          (gradient == surrogate ? 0.5 : 1 / ((pi - std::acos(s)) * std::sqrt(1 - s * s)));
    for (std::int64_t c = 0; c < width; ++c) {
      out[0][a + c] += share * v[b + c];
      out[1][a + c] += weight * k[b + c];
      out[2][b + c] += weight * q[a + c];
      out[3][b + c] += share * g[a + c];
    }
  }
  return out;
}

/// The same with queries, keys and y scaled to length one; codes are those of the rows as they are.
Arrays by_scaled_formula(const Arrays& qkv, const Shares& shares, const HashOptions& options,
                         BernoulliGradient gradient, const Array& dy) {
  const Arrays unit{unit_array(qkv[0]), unit_array(qkv[1]), qkv[2]};
  const Array sums = by_formula(unit, shares, options, gradient, dy)[0];
  Arrays out = by_formula(unit, shares, options, gradient, through_scaling(sums, dy));
  out[0] = unit_array(sums);
  out[1] = through_scaling(qkv[0], out[1]);
  out[2] = through_scaling(qkv[1], out[2]);
  return out;
}

/// Queries and keys three times as long as one, without direction in a row of each.
Sample rows_of_any_length(Sample in) {
  const DType dtype = in.qkv[0].dtype();
  const Device device = in.qkv[0].device();
  for (std::size_t part = 0; part < 2; ++part) {
    Array x = array_of(in.qkv[part]);
    const std::int64_t empty_row = std::min<std::int64_t>(2, in.layout.tokens() - 1) * x.size(1) * x.size(2);
    for (std::int64_t i = 0; i < x.count(); ++i) x[i] *= i < empty_row || i >= empty_row + x.size(2) ? 3 : 0;
    in.qkv[part] = tensor_of(x, dtype, device);
  }
  return in;
}

void check_formula(const Place& place, const std::vector<int>& lengths, std::int64_t width,
                   const HashOptions& options, BernoulliGradient gradient,
                   BernoulliRows rows = BernoulliRows::given) {
  const bool is_unit = rows == BernoulliRows::unit;
  const Sample given = sample_of(lengths, width, place.dtype, place.device),
               in = is_unit ? rows_of_any_length(given) : given;
  const RandomStream stream = on(in.qkv[0], test_stream(3));
  const std::vector<Tensor> leaves{leaf(in.qkv[0]), leaf(in.qkv[1]), leaf(in.qkv[2])};
  const Tensor y =
      bernoulli_sample(leaves[0], leaves[1], leaves[2], in.layout, options, gradient, stream, rows);
  const Tensor dy = random_weights(std::span(&y, 1), 5)[0];
  backward(std::span(&y, 1), std::span(&dy, 1));
  const Arrays qkv{array_of(in.qkv[0]), array_of(in.qkv[1]), array_of(in.qkv[2])};
  const Arrays expected = (is_unit ? by_scaled_formula : by_formula)(qkv, collisions(in, options, stream),
                                                                     options, gradient, array_of(dy));
  const bool is_exact = place.dtype == DType::float64;
  const std::string label = format_text("{} in {}, width {}, bits {}, family {}", place.device, place.dtype,
                                        width, options.bits, static_cast<int>(options.family));
  EXPECT_EQ(
      difference(y.to_vector<double>(), expected[0].values, is_exact ? 1e-12 : tolerance(place.dtype, 40)), "")
      << label;
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_EQ(difference(gradient_of(leaves[i]).to_vector<double>(), expected[i + 1].values,
                         is_exact ? 1e-10 : 4 * tolerance(place.dtype, 40)),
              "")
        << label << ", gradient " << i;
}

TEST(BernoulliSample, equals_its_formula_for_the_same_codes) {
  for (const Place& place : places())
    for (const HashFamily family : {HashFamily::gaussian, HashFamily::interleaved, HashFamily::hadamard})
      for (const auto gradient : {BernoulliGradient::surrogate, BernoulliGradient::exact})
        for (const int bits : {2, 5}) check_formula(place, {1, 7, 0, 33}, 9, {family, 5, bits}, gradient);
}

TEST(BernoulliSample, equals_its_formula_at_widths_and_code_sizes_of_models) {
  for (const Place& place : places())
    for (const auto& [width, bits] : {std::pair{32, 6}, std::pair{64, 9}, std::pair{32, 18}})
      check_formula(place, {150, 3, 66}, width, {HashFamily::gaussian, 7, bits}, surrogate);
  for (const Place& place : places())  // more hashes than a thread of CUDA's lists has registers for
    check_formula(place, {70, 5}, 32, {HashFamily::gaussian, 300, 5}, surrogate);
}

/// On CUDA in bfloat16 a warp takes the lists of neighbouring rows as one, if they lie side by side: they do
/// not with more than 128 hashes, nor where a sequence ends.
TEST(BernoulliSample, equals_its_formula_for_joined_lists) {
  for (const Place& place : places()) {
    check_formula(place, {700, 90}, 64, {HashFamily::gaussian, 5, 8}, surrogate, BernoulliRows::unit);
    check_formula(place, {90, 5, 300}, 32, {HashFamily::gaussian, 20, 7}, surrogate);
    check_formula(place, {120, 3, 66}, 32, {HashFamily::gaussian, 140, 6}, surrogate);
  }
}

/// So many rows that CUDA's multiprocessors take several rounds of tiles each.
TEST(BernoulliSample, equals_its_formula_for_many_rows) {
  if (cuda_devices() == 0) GTEST_SKIP() << cuda_description();
  const Place place{{DeviceType::cuda, 0}, DType::bfloat16};
  for (const int width : {32, 64})
    check_formula(place, std::vector<int>(120, 300), width, {HashFamily::gaussian, 2, 7}, surrogate,
                  BernoulliRows::unit);
}

TEST(BernoulliSample, equals_its_formula_where_buckets_are_crowded) {
  for (const Place& place : places())
    for (const auto gradient : {BernoulliGradient::surrogate, BernoulliGradient::exact})
      for (const auto& [width, bits] :
           {std::pair{32, 3}, std::pair{48, 3}, std::pair{64, 4}, std::pair{128, 4}})
        check_formula(place, {190, 3, 66}, width, {HashFamily::gaussian, 5, bits}, gradient);
  for (const Place& place : places()) check_formula(place, {200}, 64, {HashFamily::gaussian, 3, 1}, surrogate);
}

TEST(BernoulliSample, scales_rows_by_its_formula) {
  constexpr auto unit = BernoulliRows::unit;
  for (const Place& place : places()) {
    for (const HashFamily family : {HashFamily::gaussian, HashFamily::interleaved, HashFamily::hadamard})
      check_formula(place, {1, 7, 0, 33}, 9, {family, 5, 2}, surrogate, unit);
    for (const auto& [width, bits] : {std::pair{32, 4}, std::pair{64, 5}})
      check_formula(place, {150, 3, 66}, width, {HashFamily::gaussian, 7, bits}, surrogate, unit);
    for (const auto& [width, bits] : {std::pair{48, 3}, std::pair{64, 3}, std::pair{128, 4}, std::pair{200, 4}})
      check_formula(place, {120, 3, 66}, width, {HashFamily::gaussian, 3, bits}, surrogate, unit);
    check_formula(place, {120, 3, 66}, 64, {HashFamily::gaussian, 3, 3}, BernoulliGradient::exact, unit);
    // on CUDA in bfloat16: values in shared memory, values through the second-level cache
    check_formula(place, {500, 90}, 64, {HashFamily::gaussian, 4, 7}, surrogate, unit);
    check_formula(place, {2700, 60}, 64, {HashFamily::gaussian, 11, 10}, surrogate, unit);
  }
}

/// y and the gradients of sequences in float64.
std::vector<std::vector<double>> sample_and_gradients(Device device, const std::vector<int>& lengths,
                                                      const HashOptions& options, BernoulliRows rows,
                                                      BernoulliGradient gradient) {
  const Sample in = sample_of(lengths, 32, DType::float64, device);
  const std::vector<Tensor> leaves{leaf(in.qkv[0]), leaf(in.qkv[1]), leaf(in.qkv[2])};
  const Tensor y = bernoulli_sample(leaves[0], leaves[1], leaves[2], in.layout, options, gradient,
                                    on(in.qkv[0], test_stream(4)), rows);
  backward(y);
  std::vector<std::vector<double>> all{y.to_vector<double>()};
  for (const Tensor& x : leaves) all.push_back(gradient_of(x).to_vector<double>());
  return all;
}

void expect_cuda_as_cpu(const std::vector<int>& lengths, const HashOptions& options, BernoulliRows rows,
                        BernoulliGradient gradient) {
  const auto here = sample_and_gradients({DeviceType::cuda, 0}, lengths, options, rows, gradient),
             there = sample_and_gradients({}, lengths, options, rows, gradient);
  for (std::size_t i = 0; i < here.size(); ++i) EXPECT_EQ(difference(here[i], there[i], 1e-9), "") << i;
}

/// So many tokens and hashes that CUDA takes one head after the other.
TEST(BernoulliSample, groups_of_heads_are_those_of_the_cpu) {
  if (cuda_devices() == 0) GTEST_SKIP() << cuda_description();
  for (const auto rows : {BernoulliRows::given, BernoulliRows::unit})
    for (const auto gradient : {BernoulliGradient::surrogate, BernoulliGradient::exact})
      expect_cuda_as_cpu({12000, 12000, 11000, 12000, 12000}, {HashFamily::gaussian, 32, 12}, rows, gradient);
}

/// Buckets of more rows than a warp has lanes, in sequences of every length that shared memory is laid out for,
/// and a longer one.
TEST(BernoulliSample, wide_buckets_are_those_of_the_cpu) {
  if (cuda_devices() == 0) GTEST_SKIP() << cuda_description();
  for (const int length : {1000, 2049, 4096, 8192, 16384, 20000})  // the last cuts buckets for their sums
    for (const int bits : {2, 6})
      expect_cuda_as_cpu({length, 77}, {HashFamily::gaussian, 2, bits}, BernoulliRows::given, surrogate);
}

TEST(BernoulliSample, same_stream_same_bits_for_any_thread_count) {
  const Sample in = sample_of({150, 7, 40}, 32, DType::float32);
  const int before = threads();
  std::vector<std::vector<float>> first;
  for (const int count : {1, 2, 3, 1}) {
    set_threads(count);
    const std::vector<Tensor> leaves{leaf(in.qkv[0]), leaf(in.qkv[1]), leaf(in.qkv[2])};
    const Tensor y = bernoulli_sample(leaves[0], leaves[1], leaves[2], in.layout, {HashFamily::gaussian, 8, 4},
                                      surrogate, test_stream(4));
    backward(y);
    std::vector<std::vector<float>> all{y.to_vector<float>()};
    for (const Tensor& x : leaves) all.push_back(gradient_of(x).to_vector<float>());
    if (first.empty()) first = all;
    EXPECT_EQ(all, first) << count << " threads";
  }
  set_threads(before);
}

/// float32 rows hash to the codes of the same rows in float64, but for ties: the sums differ by rounding only.
TEST(BernoulliSample, float32_follows_float64) {
  const Sample exact = sample_of({40, 3}, 16);
  const auto run = [&](DType dtype) {
    return bernoulli_sample(cast(exact.qkv[0], dtype), cast(exact.qkv[1], dtype), cast(exact.qkv[2], dtype),
                            exact.layout, {HashFamily::gaussian, 8, 4}, surrogate, test_stream(4))
        .to_vector<double>();
  };
  EXPECT_EQ(difference(run(DType::float32), run(DType::float64), tolerance(DType::float32, 40)), "");
}

TEST(BernoulliSample, mistakes_are_named) {
  const Sample in = sample_of({3}, 4);
  const auto run = [&](HashOptions options) {
    return bernoulli_sample(in.qkv[0], in.qkv[1], in.qkv[2], in.layout, options, surrogate, test_stream(1));
  };
  EXPECT_TRUE(mentions(thrown_error([&] {
                         run({HashFamily::gaussian, 0, 4});
                       }),
                       "hashes must be at least 1, got 0"));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         run({HashFamily::gaussian, 4, 21});
                       }),
                       "bits must lie in [1, 20], got 21"));
}

}  // namespace
}  // namespace tern::test
