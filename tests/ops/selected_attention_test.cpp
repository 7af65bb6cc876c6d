// Attention to selected segments against its definition (Lee et al. 2024, arXiv 2310.01777, section 3.2).
#include <algorithm>
#include <map>

#include "support/devices.h"
#include "support/op_case.h"
#include "support/sparse_by_definition.h"
#include "support/thrown_error.h"
#include "support/tolerance.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

constexpr std::int64_t heads = 2;

/// Whether a token sees the pair of head and segment, and the other way round.
using Selected = std::vector<std::vector<bool>>;

/// The pairs with the largest weights of each token, by a sort; `segments` of each head stand side by side.
Selected selected_by_definition(const Array& weights, const std::vector<int>& lengths, std::int64_t keys) {
  const std::int64_t segments = weights.size(2), all = weights.size(1);
  Selected out;
  std::int64_t token = 0;
  for (const int length : lengths) {
    const std::int64_t used = std::min<std::int64_t>(segments, length);
    for (int i = 0; i < length; ++i, ++token) {
      std::vector<std::int64_t> order;
      for (std::int64_t h = 0; h < all; ++h)
        for (std::int64_t j = 0; j < used; ++j) order.push_back(h * segments + j);
      const auto weight = [&](std::int64_t pair) { return weights[token * all * segments + pair]; };
      std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return weight(a) > weight(b); });
      const double wanted = std::floor(static_cast<double>(all * keys * used) / length + 0.5);
      const auto count = static_cast<std::size_t>(std::clamp<double>(wanted, 1, double(order.size())));
      out.emplace_back(static_cast<std::size_t>(all * segments));
      for (std::size_t r = 0; r < count; ++r) out.back()[static_cast<std::size_t>(order[r])] = true;
    }
  }
  return out;
}

Selected selected_by(const SegmentSelection& selection, std::int64_t tokens) {
  const auto masks = selection.masks.to_vector<std::int32_t>();
  const std::int64_t words = (selection.segments + 31) / 32, all = selection.masks.size(0);
  Selected out;
  for (std::int64_t t = 0; t < tokens; ++t) {
    out.emplace_back();
    for (std::int64_t h = 0; h < all; ++h)
      for (std::int64_t j = 0; j < selection.segments; ++j) {
        const std::int32_t word = masks[static_cast<std::size_t>((h * words + j / 32) * tokens + t)];
        out.back().push_back((static_cast<std::uint32_t>(word) >> j % 32 & 1) != 0);
      }
  }
  return out;
}

/// Distinct lengths: empty, one, fewer tokens than segments, as many, one more and many more.
const std::vector<int> lengths{1, 0, 5, 6, 7, 29};
SequenceLayout ragged() { return layout_of(lengths, 64); }

Array weights_of(std::int64_t segments, std::uint64_t seed = 201) {
  return uniform_array({ragged().tokens(), heads, segments}, seed, 0, 1);
}

TEST(SelectedAttention, the_largest_weights_are_selected) {
  for (const Device device : test_devices())
    for (const std::int64_t segments : {1, 6, 32, 40})
      for (const std::int64_t keys : {1, 3, 20, 64}) {
        const Tensor weights = tensor_of(weights_of(segments), DType::float32, device);
        const auto chosen =
            selected_by(select_segments(weights, on(weights, ragged()), keys), ragged().tokens());
        EXPECT_EQ(chosen, selected_by_definition(array_of(weights), lengths, keys))
            << segments << " segments, " << keys << " keys, " << device;
      }
}

TEST(SelectedAttention, equal_weights_are_selected_in_order) {
  Array weights = weights_of(40);
  for (double& weight : weights.values) weight = std::floor(3 * weight);
  for (const Device device : test_devices()) {
    const Tensor x = tensor_of(weights, DType::float64, device);
    EXPECT_EQ(selected_by(select_segments(x, on(x, ragged()), 4), ragged().tokens()),
              selected_by_definition(weights, lengths, 4));
  }
}

/// Whether a query sees a key: sequences are told apart by their lengths. `most` keys of a segment, evenly
/// spread.
Visibility visible(const Selected& selected, std::int64_t segments, int most) {
  std::map<int, int> first;
  int token = 0;
  for (const int length : lengths) first[length] = token, token += length;
  return [=](int length, int head, const TokenPair& pair) {
    const int used = static_cast<int>(std::min<std::int64_t>(segments, length));
    for (int i = 0; i < used; ++i) {
      const int begin = i * length / used, count = (i + 1) * length / used - begin,
                taken = std::min(count, most);
      for (int r = 0; r < taken; ++r)
        if (begin + r * count / taken == pair.key)
          return bool{selected[static_cast<std::size_t>(first.at(length) + pair.query)]
                              [static_cast<std::size_t>(head * segments + i)]};
    }
    return false;
  };
}

OpCase case_of(std::int64_t segments, std::int64_t keys, std::int64_t width) {
  const Shape shape{ragged().tokens(), heads, width};
  const Array weights = weights_of(segments);
  const Visibility is_visible = visible(selected_by_definition(weights, lengths, keys), segments,
                                        static_cast<int>(std::min<std::int64_t>(heads * keys, 1000)));
  return {.name = format_text("selected_attention, {} segments, {} keys, width {}", segments, keys, width),
          .inputs = {normal_array(shape, 202), normal_array(shape, 203), normal_array(shape, 204)},
          .function = one_result([=](auto x) {
            const SequenceLayout layout = on(x[0], ragged());
            const Tensor estimate = tensor_of(weights, DType::float64, x[0].device());
            return selected_attention(x[0], x[1], x[2], layout, select_segments(estimate, layout, keys), 0.4);
          }),
          .reference = one_array(
              [=](const Arrays& x) { return sparse_by_definition(x, ragged(), is_visible, 0.4).front(); }),
          .reduction_length = 29 + width};
}

/// One key of a head leaves most rows of a head without any, and takes one key of a segment of many.
TEST(SelectedAttention, is_softmax_over_the_keys_of_the_selected_segments) {
  std::vector<OpCase> cases;
  for (const std::int64_t segments : {1, 6, 40})
    for (const std::int64_t keys : {1, 4, 100}) cases.push_back(case_of(segments, keys, 3));
  // rows of 8, 40, 64, 136 and 256 columns lie in packs, in groups of 4 to 32 lanes
  for (const std::int64_t width : {1, 8, 40, 64, 136, 256}) cases.push_back(case_of(6, 8, width));
  check(cases);
}

/// All keys of a long sequence, as selected attention and as exact attention; the tolerance is of `dtype`.
void expect_exact_attention(DType dtype, Device device) {
  const auto rows = [&](std::uint64_t seed) {
    return tensor_of(normal_array({1300, 2, 8}, seed), dtype, device);
  };
  const Tensor dy = rows(209),
               weights = tensor_of(uniform_array({1300, 2, 100}, 208, 0, 1), DType::float64, device);
  const SequenceLayout layout = on(weights, layout_of({1300}, 1300));
  std::vector<Tensor> exact, selected;
  for (std::uint64_t seed : {205, 206, 207}) {
    exact.push_back(leaf(rows(seed)));
    selected.push_back(leaf(exact.back().detach()));
  }
  const Tensor y = softmax_attention(exact[0], exact[1], exact[2], layout, 0.5, {}),
               z = selected_attention(selected[0], selected[1], selected[2], layout,
                                      select_segments(weights, layout, 1300), 0.5);
  const double allowed = dtype == DType::float64 ? 1e-12 : 2 * tolerance(dtype, 1300);
  EXPECT_EQ(difference(array_of(z).values, array_of(y).values, allowed), "") << dtype;
  backward(std::span(&y, 1), std::span(&dy, 1));
  backward(std::span(&z, 1), std::span(&dy, 1));
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_EQ(difference(array_of(gradient_of(selected[i])).values, array_of(gradient_of(exact[i])).values,
                         4 * allowed),
              "")
        << dtype << ", input " << i;
}

/// Longer than a task of queries, and more segments of keys than a word has bits.
TEST(SelectedAttention, all_keys_of_a_long_sequence_give_exact_attention) {
  for (const Device device : test_devices()) {
    expect_exact_attention(DType::float64, device);
    if (device.type == DeviceType::cuda) expect_exact_attention(DType::bfloat16, device);
  }
}

void expect_zeros_behind_sequences(DType dtype, Device device) {
  const SequenceLayout layout = make_layout(arrange_sequences({0, 4, 7}, {0, 1, 2, 3, 0, 1, 2}, {1, 2}, 8, 16));
  const Tensor weights = tensor_of(uniform_array({16, 2, 3}, 210, 0, 1), dtype, device);
  const SequenceLayout there = on(weights, layout);
  const SegmentSelection selection = select_segments(weights, there, 2);
  const Selected chosen = selected_by(selection, 16);
  EXPECT_EQ(std::count(chosen[8].begin(), chosen[8].end(), true), 0);
  const Tensor q = leaf(tensor_of(normal_array({16, 2, 8}, 211), dtype, device));
  const Tensor y = selected_attention(q, q, q, there, selection, 1);
  const std::vector<double> zeros_behind(144, 0);
  EXPECT_EQ(array_of(slice(y.detach(), 0, 7, 9)).values, zeros_behind) << dtype;
  backward(sum(y));
  EXPECT_EQ(array_of(slice(gradient_of(q), 0, 7, 9)).values, zeros_behind) << dtype;
  const Tensor rows = stretched_unit_rows(there, 2, 3, dtype);
  EXPECT_EQ(array_of(slice(rows, 0, 7, 9)).values, std::vector<double>(54, 0)) << dtype;
}

TEST(SelectedAttention, unused_capacity_is_zero) {
  for (const Device device : test_devices()) {
    expect_zeros_behind_sequences(DType::float32, device);
    if (device.type == DeviceType::cuda) expect_zeros_behind_sequences(DType::bfloat16, device);
  }
}

TEST(SelectedAttention, unit_rows_are_stretched_over_each_sequence) {
  for (const Device device : test_devices()) {
    const Tensor like = zeros({1}, DType::float32, device);
    const Tensor rows = stretched_unit_rows(on(like, layout_of({1, 5, 0, 3}, 8)), 2, 3, DType::float64);
    const std::vector<double> wanted{1, 0, 0,                                          // alone
                                     1, 0, 0, .5, .5, 0, 0, 1, 0, 0, .5, .5, 0, 0, 1,  // of five
                                     1, 0, 0, 0,  1,  0, 0, 0, 1};                     // of three
    EXPECT_EQ(slice(rows, 1, 0, 1).to_vector<double>(), wanted);
    EXPECT_EQ(slice(rows, 1, 1, 1).to_vector<double>(), wanted);
  }
}

TEST(SelectedAttention, mistakes_are_named) {
  const SequenceLayout layout = layout_of({4}, 4);
  const Tensor x = zeros({4, 2, 3}, DType::float32);
  EXPECT_TRUE(mentions(thrown_error([&] { select_segments(x, layout, 0); }), "select_segments: needs weights"));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         select_segments(zeros({3, 2, 3}, DType::float32), layout, 1);
                       }),
                       "select_segments: needs weights"));
  const SegmentSelection other = select_segments(zeros({4, 1, 3}, DType::float32), layout, 1);
  EXPECT_TRUE(mentions(thrown_error([&] { selected_attention(x, x, x, layout, other, 1); }),
                       "selected_attention: the selection must be one of these heads and tokens"));
  EXPECT_TRUE(mentions(thrown_error([&] { stretched_unit_rows(layout, 2, 0, DType::float32); }),
                       "stretched_unit_rows: "));
}

}  // namespace
}  // namespace tern::test
