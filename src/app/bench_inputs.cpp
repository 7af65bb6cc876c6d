#include "app/bench_inputs.h"

#include <cmath>

#include "base/parallel.h"
#include "tern/ops.h"
#include "tern/random.h"

namespace tern::app {
namespace {

constexpr std::uint32_t step = 0;
constexpr std::int64_t grain = 64;

RandomStream stream_of(std::uint64_t seed, std::string_view purpose) {
  return {stream_key(seed, purpose), &step};
}

/// [tokens, width] standard normal float32 on the host; a row depends on its number only.
Tensor normal_rows(std::int64_t tokens, std::int64_t width, const RandomStream& stream) {
  const Tensor rows = empty({tokens, width}, DType::float32);
  auto* const values = rows.data<float>();
  parallel_for(tokens, grain, [&](std::int64_t token) {
    fill_normal(stream, token, 0, std::span(values + token * width, static_cast<std::size_t>(width)));
  });
  return rows;
}

/// Per head one row of length sqrt(head_width), that of a typical standard normal row: [heads * head_width].
std::vector<float> common_rows(const RowShape& shape, std::uint64_t seed) {
  std::vector<float> rows =
      normal_rows(1, shape.heads * shape.head_width, stream_of(seed, "bench.common")).to_vector<float>();
  const auto width = static_cast<std::size_t>(shape.head_width);
  for (std::size_t head = 0; head < rows.size(); head += width) {
    double squares = 0;
    for (std::size_t i = 0; i < width; ++i) squares += double{rows[head + i]} * double{rows[head + i]};
    const double scale = std::sqrt(static_cast<double>(width) / squares);
    for (std::size_t i = 0; i < width; ++i) rows[head + i] = static_cast<float>(scale * double{rows[head + i]});
  }
  return rows;
}

/// Changes queries and keys, the first two parts of each row of the product, as `law` says.
void apply_law(RowLaw law, const RowShape& shape, std::uint64_t seed, float* product) {
  if (law == RowLaw::random) return;
  const std::vector<float> common = common_rows(shape, seed);
  const auto width = static_cast<std::int64_t>(common.size());
  const float half = std::sqrt(0.5f);
  parallel_for(shape.tokens, grain, [&](std::int64_t token) {
    float* const query = product + token * 3 * width;
    float* const key = query + width;
    for (std::int64_t i = 0; i < width; ++i) {
      const float shared = common[static_cast<std::size_t>(i)];
      key[i] = law == RowLaw::equal_keys ? shared : half * (key[i] + shared);
      if (law == RowLaw::mean) query[i] = half * (query[i] + shared);
    }
  });
}

Tensor placed(const Tensor& host, const Shape& shape, DType dtype, Device device) {
  const Tensor out = empty(shape, dtype, device);
  copy(host.reshaped(shape), out);
  return out;
}

}  // namespace

AttentionRows attention_rows(RowLaw law, const RowShape& shape, std::uint64_t seed, DType dtype,
                             Device device) {
  const std::int64_t width = shape.heads * shape.head_width;
  Tensor product = normal_rows(shape.tokens, 3 * width, stream_of(seed, "bench.rows"));
  apply_law(law, shape, seed, product.data<float>());
  product = placed(product, {shape.tokens, 3, shape.heads, shape.head_width}, dtype, device);
  const std::vector<Tensor> parts = unstack(product, 1);
  const Tensor gradient = normal_rows(shape.tokens, width, stream_of(seed, "bench.gradient"));
  return {parts[0], parts[1], parts[2],
          placed(gradient, {shape.tokens, shape.heads, shape.head_width}, dtype, device)};
}

SequenceLayout equal_sequences(std::int64_t sequences, std::int64_t length, Device device) {
  std::vector<std::int32_t> offsets{0}, position;
  std::vector<std::int64_t> sample;
  for (std::int64_t s = 0; s < sequences; ++s) {
    for (std::int64_t i = 0; i < length; ++i) position.push_back(static_cast<std::int32_t>(i));
    offsets.push_back(static_cast<std::int32_t>(position.size()));
    sample.push_back(s);
  }
  return make_layout(offsets, position, sample, length, device);
}

}  // namespace tern::app
