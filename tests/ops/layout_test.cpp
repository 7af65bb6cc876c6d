#include "support/op_case.h"
#include "support/thrown_error.h"
#include "tern/memory.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

/// Entry of `y` at each index = entry of x at source(index).
using Index = std::vector<std::int64_t>;
Array gathered(const Array& x, const Shape& shape, const std::function<Index(const Index&)>& source) {
  Array y(shape);
  Index index(static_cast<std::size_t>(shape.rank()), 0);
  const Shape strides = contiguous_strides(x.shape);
  for (std::int64_t i = 0; i < y.count(); ++i) {
    std::int64_t rest = i, from = 0;
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      index[static_cast<std::size_t>(axis)] = rest % shape[axis];
      rest /= shape[axis];
    }
    const Index at = source(index);
    for (int axis = 0; axis < x.shape.rank(); ++axis)
      from += at[static_cast<std::size_t>(axis)] * strides[axis];
    y[i] = x[from];
  }
  return y;
}

TEST(Layout, reshape_and_contiguous_keep_the_order) {
  check({{.name = "reshape",
          .inputs = {normal_array({2, 3, 4}, 1)},
          .function = one_result([](auto x) {
            return reshape(x[0], {4, 6});
          }),
          .reference = one_array([](const Arrays& x) {
            Array y = x[0];
            y.shape = {4, 6};
            return y;
          })},
         {.name = "contiguous",
          .inputs = {normal_array({5, 3}, 2)},
          .function = one_result([](auto x) { return contiguous(transpose(x[0], 0, 1)); }),
          .reference = one_array([](const Arrays& x) {
            return gathered(x[0], {3, 5}, [](const Index& i) { return Index{i[1], i[0]}; });
          })}});
}

TEST(Layout, permute_and_transpose_move_axes) {
  check({{.name = "permute",
          .inputs = {normal_array({2, 3, 5}, 3)},
          .function = one_result([](auto x) {
            return permute(x[0], {2, 0, 1});
          }),
          .reference = one_array([](const Arrays& x) {
            return gathered(x[0], {5, 2, 3}, [](const Index& i) { return Index{i[1], i[2], i[0]}; });
          })},
         {.name = "transpose",
          .inputs = {normal_array({2, 3, 5, 2}, 4)},
          .function = one_result([](auto x) { return transpose(x[0], -2, 1); }),
          .reference = one_array([](const Arrays& x) {
            return gathered(x[0], {2, 5, 3, 2}, [](const Index& i) { return Index{i[0], i[2], i[1], i[3]}; });
          })}});
}

TEST(Layout, slice_takes_a_range) {
  std::vector<OpCase> cases;
  for (const int axis : {0, 1, -1})
    cases.push_back({.name = format_text("slice of axis {}", axis),
                     .inputs = {normal_array({5, 4, 3}, 5)},
                     .function = one_result([axis](auto x) { return slice(x[0], axis, 1, 2); }),
                     .reference = one_array([axis](const Arrays& x) {
                       const auto at = static_cast<std::size_t>(axis < 0 ? axis + 3 : axis);
                       Shape shape = x[0].shape;
                       shape[static_cast<int>(at)] = 2;
                       return gathered(x[0], shape, [at](Index i) {
                         i[at] += 1;
                         return i;
                       });
                     })});
  check(cases);
}

TEST(Layout, split_gives_ranges_one_after_another) {
  std::vector<OpCase> cases;
  for (const int axis : {0, 1, -1})
    cases.push_back({.name = format_text("split of axis {}", axis),
                     .inputs = {normal_array({5, 5, 5}, 5)},
                     .function =
                         [axis](std::span<const Tensor> x) {
                           return split(x[0], axis, {2, 3});
                         },
                     .reference =
                         [axis](const Arrays& x) {
                           const auto at = static_cast<std::size_t>(axis < 0 ? axis + 3 : axis);
                           Arrays parts;
                           for (const std::int64_t first : {0, 2}) {
                             Shape shape = x[0].shape;
                             shape[static_cast<int>(at)] = first == 0 ? 2 : 3;
                             parts.push_back(gathered(x[0], shape, [at, first](Index i) {
                               i[at] += first;
                               return i;
                             }));
                           }
                           return parts;
                         }});
  check(cases);
}

TEST(Layout, split_without_every_part_used_leaves_zeros) {
  const Tensor x = leaf(full({2, 3}, 1, DType::float64));
  backward(sum(split(x, 1, {1, 2})[1]));
  EXPECT_EQ(gradient_of(x).to_vector<double>(), (std::vector<double>{0, 1, 1, 0, 1, 1}));
}

TEST(Layout, unstack_gives_one_view_for_each_entry) {
  std::vector<OpCase> cases;
  for (const int axis : {0, 1, 2})
    cases.push_back({.name = format_text("unstack of axis {}", axis),
                     .inputs = {normal_array({3, 2, 4}, 6)},
                     .function = [axis](std::span<const Tensor> x) { return unstack(x[0], axis); },
                     .reference =
                         [axis](const Arrays& x) {
                           Arrays parts;
                           Index kept;
                           for (int i = 0; i < 3; ++i)
                             if (i != axis) kept.push_back(x[0].shape[i]);
                           for (std::int64_t part = 0; part < x[0].shape[axis]; ++part)
                             parts.push_back(gathered(x[0], Shape(kept), [axis, part](Index i) {
                               i.insert(i.begin() + axis, part);
                               return i;
                             }));
                           return parts;
                         }});
  check(cases);
}

TEST(Layout, unstack_without_every_part_used_leaves_zeros) {
  const Tensor x = leaf(full({2, 3}, 1, DType::float64));
  backward(sum(unstack(x, 1)[1]));
  EXPECT_EQ(gradient_of(x).to_vector<double>(), (std::vector<double>{0, 1, 0, 0, 1, 0}));
}

TEST(Layout, unstack_passes_gradients_that_lie_side_by_side_without_a_copy) {
  const Tensor x = leaf(full({4, 2, 3}, 1, DType::float32));
  const Tensor whole = zeros({4, 2, 3}, DType::float32);
  const std::byte* received = nullptr;
  const Tensor root = record("probe", x, {x}, [&](const Tensor& dy, GradientSink& sink) {
    received = dy.address();
    sink.add(0, dy);
  });
  const std::vector<Tensor> parts = unstack(root, 1);
  const std::vector<Tensor> outputs =
      record("writer", {parts[0].detach(), parts[1].detach()}, parts, [&](auto, GradientSink& sink) {
        for (int i = 0; i < 2; ++i) sink.add(i, whole.viewed({4, 3}, {6, 1}, 3 * i));
      });
  const std::vector<Tensor> seeds{zeros({4, 3}, DType::float32), zeros({4, 3}, DType::float32)};
  backward(outputs, seeds);
  EXPECT_EQ(received, whole.address());
}

TEST(Layout, concatenate_joins_along_an_axis) {
  const auto joined_rows = one_array([](const Arrays& x) {
    Array y({6, 4});
    y.values.clear();
    for (const Array& part : x) y.values.insert(y.values.end(), part.values.begin(), part.values.end());
    return y;
  });
  const auto joined_columns = one_array([](const Arrays& x) {
    Array y({2, 5});
    for (std::int64_t i = 0; i < 2; ++i)
      for (std::int64_t j = 0; j < 5; ++j) y.at(i, j) = j < 2 ? x[0].at(i, j) : x[1].at(i, j - 2);
    return y;
  });
  check({{.name = "concatenate rows",
          .inputs = {normal_array({1, 4}, 7), normal_array({3, 4}, 8), normal_array({2, 4}, 9)},
          .function = one_result([](auto x) {
            return concatenate({x[0], x[1], x[2]}, 0);
          }),
          .reference = joined_rows},
         {.name = "concatenate columns",
          .inputs = {normal_array({2, 2}, 7), normal_array({2, 3}, 8)},
          .function = one_result([](auto x) {
            return concatenate({x[0], x[1]}, -1);
          }),
          .reference = joined_columns}});
}

TEST(Layout, expand_repeats_over_new_leading_axes) {
  const auto repeated = one_array([](const Arrays& x) {
    Array y({3, 2, 2, 5});
    for (std::int64_t i = 0; i < y.count(); ++i) y[i] = x[0][i % x[0].count()];
    return y;
  });
  check({{.name = "expand",
          .inputs = {normal_array({2, 5}, 10)},
          .function = one_result([](auto x) {
            return expand(x[0], {3, 2, 2, 5});
          }),
          .reference = repeated,
          .reduction_length = 6}});
}

TEST(Layout, views_share_storage_and_copies_do_not) {
  const Tensor x = full({4, 6}, 1, DType::float32);
  const std::int64_t before = memory_statistics().live_tensors;
  const std::vector<Tensor> views{transpose(x, 0, 1), slice(x, 1, 2, 3), reshape(x, {6, 4}),
                                  expand(x, {2, 4, 6})};
  EXPECT_EQ(memory_statistics().live_tensors, before);
  for (const Tensor& view : views) EXPECT_TRUE(view.shares_storage_with(x));
  EXPECT_FALSE(contiguous(views[0]).shares_storage_with(x));
}

TEST(Layout, mistakes_are_named) {
  const Tensor x = zeros({2, 3}, DType::float32);
  EXPECT_TRUE(mentions(thrown_error([&] { reshape(x, {4}); }), "reshape: [2, 3] has 6 elements, [4] needs 4"));
  EXPECT_TRUE(mentions(thrown_error([&] { slice(x, 1, 2, 2); }), "narrow: entries [2, 2 + 2) of axis 1"));
  EXPECT_TRUE(mentions(thrown_error([&] { permute(x, {0, 0}); }), "permute: [0, 0] is not a permutation"));
  EXPECT_TRUE(mentions(thrown_error([&] { permute(x, {0}); }), "permute: "));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         concatenate({x, zeros({2, 2}, DType::float32)}, 0);
                       }),
                       "concatenate: "));
  EXPECT_TRUE(mentions(thrown_error([&] { concatenate({}, 0); }), "concatenate: needs at least one tensor"));
  EXPECT_TRUE(mentions(thrown_error([&] {
                         expand(x, {3, 2});
                       }),
                       "expand: [3, 2] must end with the shape [2, 3]"));
  EXPECT_TRUE(mentions(thrown_error([&] { unstack(x, 2); }), "unstack: axis 2"));
  EXPECT_TRUE(mentions(thrown_error([&] { split(x, 1, {1, 1}); }), "split: the lengths must add up to axis 1"));
}

}  // namespace
}  // namespace tern::test
