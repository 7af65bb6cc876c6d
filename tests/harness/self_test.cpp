// Planted faults: a harness that misses one of them could pass anything.
#include <algorithm>

#include <gtest/gtest-spi.h>

#include "support/golden.h"
#include "support/op_case.h"
#include "support/tolerance.h"
#include "tern/memory.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

/// y = 2 x with faults to plant: values and gradient are given per entry.
using Values = std::function<double(double x)>;

Tensor planted(const Tensor& x, const Values& value, const Values& slope) {
  const Array in = array_of(x);
  const Tensor y = tensor_of(mapped(in, value), x.dtype(), x.device());
  return record("planted", y, {x}, [in, slope](const Tensor& dy, GradientSink& sink) {
    Array dx = array_of(dy);
    for (std::int64_t i = 0; i < dx.count(); ++i) dx[i] *= slope(in[i]);
    sink.add(0, tensor_of(dx, dy.dtype(), dy.device()));
  });
}
double doubled(double x) { return 2 * x; }
double two(double) { return 2; }

OpCase case_of(std::function<Tensor(const Tensor&)> op) {
  return {.name = "planted",
          .inputs = {normal_array({3, 4}, 1)},
          .function = one_result([op](auto x) { return op(x[0]); }),
          .reference = one_array([](const Arrays& x) { return mapped(x[0], doubled); })};
}

/// The case must fail, with `text` in one of its lines.
void expect_report(const OpCase& c, const std::string& text) {
  const std::vector<std::string> lines = failures(c);
  const bool is_named = std::any_of(lines.begin(), lines.end(), [&](const std::string& line) {
    return line.find(text) != std::string::npos;
  });
  EXPECT_TRUE(is_named) << "nothing says \"" << text << "\" among " << lines.size()
                        << " lines: " << to_text(lines);
}

TEST(Harness, passes_a_right_op) {
  EXPECT_EQ(failures(case_of([](const Tensor& x) { return planted(x, doubled, two); })),
            std::vector<std::string>{});
  EXPECT_EQ(failures(case_of([](const Tensor& x) { return affine(x, 2); })), std::vector<std::string>{});
}

TEST(Harness, reports_a_wrong_value) {
  expect_report(case_of([](const Tensor& x) {
                  return planted(
                      x, [](double v) { return 2 * v + 1e-5; }, two);
                }),
                "planted in float32 on cpu: result 0 entry");
  expect_report(case_of([](const Tensor& x) {
                  return planted(
                      x, [](double v) { return 2 * v + 1e-12; }, two);
                }),
                "planted in float64 on cpu: result 0 entry");
}

TEST(Harness, reports_a_wrong_gradient) {
  const auto wrong = [](double) { return 2 + 1e-6; };
  expect_report(case_of([=](const Tensor& x) { return planted(x, doubled, wrong); }),
                "gradient of input 0 against differences");
  OpCase large = case_of([=](const Tensor& x) { return planted(x, doubled, wrong); });
  large.inputs = {normal_array({30, 40}, 2)};
  expect_report(large, "gradient of input 0 against differences");
}

TEST(Harness, reports_a_wrong_float32_gradient) {
  expect_report(case_of([](const Tensor& x) {
                  return planted(x, doubled, [is_float = x.dtype() == DType::float32](double) {
                    return is_float ? 2.001 : 2.0;
                  });
                }),
                "planted in float32 on cpu: gradient of input 0 entry");
}

TEST(Harness, reports_a_gradient_that_breaks_its_own_formula) {
  OpCase c = case_of([](const Tensor& x) { return planted(x, doubled, [](double) { return 3.1; }); });
  c.gradient = [](const Arrays&, const Arrays& dy) {
    return Arrays{mapped(dy[0], [](double d) { return 3 * d; })};
  };
  expect_report(c, "planted in float64 on cpu: gradient of input 0 entry");
}

TEST(Harness, reports_a_leak) {
  std::vector<Tensor> kept;
  expect_report(case_of([&](const Tensor& x) {
                  kept.push_back(planted(x, doubled, two));
                  return kept.back();
                }),
                "leaks");
}

TEST(Harness, reports_values_that_are_not_finite) {
  const auto nan = [](double) { return std::nan(""); };
  expect_report(case_of([&](const Tensor& x) { return planted(x, nan, two); }), "is not finite");
  expect_report(case_of([&](const Tensor& x) { return planted(x, doubled, nan); }), "is not finite");
  OpCase c = case_of([](const Tensor& x) { return affine(x, 2); });
  c.reference = one_array([&](const Arrays& x) { return mapped(x[0], nan); });
  expect_report(c, "the reference is not finite");
}

TEST(Harness, reports_a_wrong_shape_type_or_count) {
  expect_report(case_of([](const Tensor& x) {
                  return reshape(affine(x, 2), {4, 3});
                }),
                "has shape [4, 3], expected [3, 4]");
  expect_report(case_of([](const Tensor& x) { return cast(affine(x, 2), DType::bfloat16); }), "is bfloat16");
  OpCase c = case_of([](const Tensor& x) { return affine(x, 2); });
  c.reference = [](const Arrays& x) { return Arrays{mapped(x[0], doubled), x[0]}; };
  expect_report(c, "gives 1 results, expected 2");
}

TEST(Harness, reports_a_gradient_of_the_wrong_shape) {
  expect_report(case_of([](const Tensor& x) {
                  return record("misshapen", affine(x, 2), {x}, [](const Tensor& dy, GradientSink& sink) {
                    sink.add(0, reshape(dy, {4, 3}));
                  });
                }),
                "misshapen: the gradient of input 0 must be float64 [3, 4], got float64 [4, 3]");
}

TEST(Harness, reports_an_empty_comparison) {
  OpCase c = case_of([](const Tensor& x) { return affine(x, 2); });
  c.inputs = {Array({0, 4})};
  expect_report(c, "the comparison is empty");
  c.is_empty = true;
  EXPECT_EQ(failures(c), std::vector<std::string>{});
  c.function = one_result([](auto x) {
    return concatenate({affine(x[0], 2), zeros({1, 4}, x[0].dtype(), x[0].device())}, 0);
  });
  expect_report(c, "has shape [1, 4], expected [0, 4]");
}

TEST(Harness, reports_results_that_change_from_run_to_run) {
  double drift = 0;
  expect_report(case_of([&](const Tensor& x) {
                  drift += 1e-15;
                  return planted(
                      x, [&](double v) { return 2 * v + drift; }, two);
                }),
                "values differ in bits on a second run");
  expect_report(case_of([&](const Tensor& x) {
                  drift += 1e-15;
                  return planted(x, doubled, [&](double) { return 2 + drift; });
                }),
                "gradients differ in bits on a second run");
}

TEST(Harness, reports_results_that_depend_on_the_thread_count) {
  expect_report(case_of([](const Tensor& x) {
                  return planted(
                      x, [](double v) { return 2 * v * (threads() == 3 ? 1 + 1e-15 : 1); }, two);
                }),
                "values differ in bits with");
}

TEST(Harness, reports_an_op_that_ignores_strides) {
  expect_report(case_of([](const Tensor& x) {
                  const Tensor wrong = x.detach().viewed(x.shape(), contiguous_strides(x.shape()));
                  return record("strideless", affine(wrong, 2), {x},
                                [](const Tensor& dy, GradientSink& sink) { sink.add(0, affine(dy, 2)); });
                }),
                "result 0 of strided inputs");
}

TEST(Harness, reports_a_gradient_that_overwrites_instead_of_adding) {
  expect_report(case_of([](const Tensor& x) {
                  return record("overwriting", affine(x.detach(), 2), {x},
                                [](const Tensor& dy, GradientSink& sink) {
                                  sink.write(0, [&](const Tensor& target, bool) {
                                    const Tensor dx = affine(dy, 2);
                                    copy(dx, target);
                                  });
                                });
                }),
                "used twice");
}

TEST(Harness, reports_a_gradient_that_needs_all_inputs_to_be_wanted) {
  OpCase c{.name = "planted",
           .inputs = {normal_array({3}, 1), normal_array({3}, 2)},
           .function = one_result([](auto x) {
             return record("greedy", add(x[0].detach(), x[1].detach()), {x[0], x[1]},
                           [](const Tensor& dy, GradientSink& sink) {
                             sink.add(0, dy);
                             if (sink.wants(0)) sink.add(1, dy);
                           });
           }),
           .reference = one_array([](const Arrays& x) {
             Array y = x[0];
             for (std::int64_t i = 0; i < 3; ++i) y[i] += x[1][i];
             return y;
           })};
  expect_report(c, "gradient of input 1 alone");
}

TEST(Harness, reports_what_an_op_throws) {
  expect_report(case_of([](const Tensor& x) { return reshape(x, {5}); }), "threw reshape: ");
}

TEST(Harness, refuses_a_widened_tolerance_without_a_reason) {
  OpCase c = case_of([](const Tensor& x) { return affine(x, 2); });
  c.widening = 3;
  expect_report(c, "a widened tolerance needs a reason");
  c.reason = "a reason is given";
  EXPECT_EQ(failures(c), std::vector<std::string>{});
  c.widening = 1e9;
  expect_report(c, "compares nothing");
}

TEST(Harness, check_passes_every_line_on_and_refuses_an_empty_list) {
  EXPECT_NONFATAL_FAILURE(check({}), "no case to check");
  OpCase c = case_of([](const Tensor& x) { return affine(x, 2); });
  c.widening = 3;
  EXPECT_NONFATAL_FAILURE(check({c}), "planted: a widened tolerance needs a reason");
}

TEST(Difference, finds_what_differs) {
  const std::vector<double> a{1, 2, 3}, b{1, 2, 3.001}, nan{1, std::nan(""), 3}, none, zero{0, 0},
      tiny{0, 1e-300};
  EXPECT_EQ(difference(a, a, 0), "");
  EXPECT_EQ(difference(b, a, 1e-3), "");
  EXPECT_NE(difference(b, a, 1e-4), "");
  EXPECT_EQ(difference(nan, a, 1e-3), "entry 1 is not finite: nan");
  EXPECT_EQ(difference(a, nan, 1e-3), "the reference is not finite");
  EXPECT_EQ(difference(none, none, 1e-3), "the comparison is empty");
  EXPECT_EQ(difference(none, a, 1e-3), "has 0 values, expected 3");
  EXPECT_EQ(difference(zero, zero, 1e-3), "");
  EXPECT_NE(difference(tiny, zero, 1e-3), "");
  EXPECT_NE(difference(a, a, 1), "");
  EXPECT_NE(difference(a, a, std::nan("")), "");
}

TEST(Golden, missing_files_and_names_are_errors) {
  EXPECT_THROW(Golden("no_such_file"), Error);
  EXPECT_THROW(Golden("functions").tensor("no such tensor"), Error);
}

}  // namespace
}  // namespace tern::test
