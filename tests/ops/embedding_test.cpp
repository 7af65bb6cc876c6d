#include "support/devices.h"
#include "support/dropout_reference.h"
#include "support/op_case.h"
#include "support/thrown_error.h"
#include "tern/ops.h"

namespace tern::test {
namespace {

Array looked_up(const Array& table, const std::vector<std::int32_t>& ids) {
  Array y({static_cast<std::int64_t>(ids.size()), table.size(1)});
  for (std::int64_t r = 0; r < y.size(0); ++r)
    for (std::int64_t c = 0; c < y.size(1); ++c) y.at(r, c) = table.at(ids[static_cast<std::size_t>(r)], c);
  return y;
}

Tensor ids_of(const std::vector<std::int32_t>& ids, Device device = {}) {
  return from_vector(ids, {static_cast<std::int64_t>(ids.size())}, device);
}

TEST(Embedding, looks_up_rows_and_adds_gradients_of_repeated_ones) {
  std::vector<OpCase> cases;
  std::vector<std::int32_t> many;
  for (int i = 0; i < 700; ++i) many.push_back(i * i % 5);
  for (const auto& ids : std::vector<std::vector<std::int32_t>>{{0}, {2, 2, 0, 4, 2}, many})
    for (const std::int64_t width : {1, 7, 17, 33})
      cases.push_back(
          {.name = format_text("embedding of {} ids, width {}", ids.size(), width),
           .inputs = {normal_array({5, width}, 130)},
           .function = one_result([ids](auto x) { return embedding(ids_of(ids, x[0].device()), x[0]); }),
           .reference = one_array([ids](const Arrays& x) { return looked_up(x[0], ids); }),
           .parameters = {0},
           .reduction_length = static_cast<std::int64_t>(ids.size())});
  cases.push_back({.name = "embedding of no ids",
                   .inputs = {normal_array({5, 3}, 131)},
                   .function = one_result([](auto x) { return embedding(ids_of({}, x[0].device()), x[0]); }),
                   .reference = one_array([](const Arrays&) {
                     return Array({0, 3});
                   }),
                   .parameters = {0},
                   .is_empty = true});
  check(cases);
}

/// Both tables, gaps between places, and dropout; the result takes the type of the data, not of the tables.
TEST(TokenEmbedding, adds_two_tables_under_dropout) {
  std::vector<OpCase> cases;
  for (const std::int64_t vocabulary : {5, 600})
    for (const std::int64_t width : {7, 64})
      for (const double rate : {0.0, 0.3}) {
        const SequenceLayout layout = layout_of({30, 0, 1, 64}, 200, 3);
        std::vector<std::int32_t> ids;
        for (std::int64_t i = 0; i < layout.tokens(); ++i)
          ids.push_back(static_cast<std::int32_t>(i * i % vocabulary));
        const DropoutOptions options{rate, test_stream(9)};
        const Array factors = dropout_factors({layout.tokens(), width}, layout.token_rows(), options);
        cases.push_back(
            {.name = format_text("token_embedding of {} ids, width {}, rate {}", vocabulary, width, rate),
             .inputs = {normal_array({vocabulary, width}, 134), normal_array({200, width}, 135),
                        normal_array({layout.tokens(), width}, 136)},
             .function = one_result([=](auto x) {
               return add(token_embedding(ids_of(ids, x[0].device()), x[0], x[1], on(x[0], layout),
                                          on(x[0], options), x[2].dtype()),
                          x[2]);
             }),
             .reference = one_array([=](const Arrays& x) {
               Array y = x[2];
               const Array tokens = looked_up(x[0], ids),
                           places = looked_up(x[1], layout.position.to_vector<std::int32_t>());
               for (std::int64_t i = 0; i < y.count(); ++i) y[i] += (tokens[i] + places[i]) * factors[i];
               return y;
             }),
             .parameters = {0, 1},
             .reduction_length = layout.tokens()});
      }
  check(cases);
}

TEST(TokenEmbedding, of_one_table_adds_no_place) {
  const SequenceLayout layout = layout_of({30, 0, 9}, 200, 3);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < layout.tokens(); ++i) ids.push_back(static_cast<std::int32_t>(i * i % 5));
  const DropoutOptions options{0.3, test_stream(9)};
  const Array factors = dropout_factors({layout.tokens(), 16}, layout.token_rows(), options);
  check({{.name = "token_embedding without places",
          .inputs = {normal_array({5, 16}, 137), normal_array({layout.tokens(), 16}, 138)},
          .function = one_result([=](auto x) {
            return add(token_embedding(ids_of(ids, x[0].device()), x[0], {}, on(x[0], layout),
                                       on(x[0], options), x[1].dtype()),
                       x[1]);
          }),
          .reference = one_array([=](const Arrays& x) {
            Array y = x[1];
            const Array tokens = looked_up(x[0], ids);
            for (std::int64_t i = 0; i < y.count(); ++i) y[i] += tokens[i] * factors[i];
            return y;
          }),
          .parameters = {0},
          .reduction_length = layout.tokens()}});
}

const std::vector<std::vector<int>> batches{{1}, {3, 1, 0, 5}, {0, 2}, {17, 33}};

Array sequence_means(const Array& x, const std::vector<int>& lengths, std::int64_t divisor) {
  Array y({static_cast<std::int64_t>(lengths.size()), x.size(1)});
  std::int64_t row = 0;
  for (std::int64_t s = 0; s < y.size(0); ++s) {
    const int length = lengths[static_cast<std::size_t>(s)];
    for (int i = 0; i < length; ++i, ++row)
      for (std::int64_t c = 0; c < x.size(1); ++c)
        y.at(s, c) += x.at(row, c) / static_cast<double>(divisor > 0 ? divisor : length);
  }
  return y;
}

/// Gaps between places; the result takes the type of the data.
TEST(PositionRows, looks_up_places) {
  std::vector<OpCase> cases;
  for (const std::int64_t width : {7, 64}) {
    const SequenceLayout layout = layout_of({30, 0, 1, 64}, 200, 3);
    const auto places = layout.position.to_vector<std::int32_t>();
    cases.push_back({.name = format_text("position_rows, width {}", width),
                     .inputs = {normal_array({200, width}, 137), normal_array({layout.tokens(), width}, 138)},
                     .function = one_result([=](auto x) {
                       return add(position_rows(x[0], on(x[0], layout), x[1].dtype()), x[1]);
                     }),
                     .reference = one_array([=](const Arrays& x) {
                       Array y = looked_up(x[0], places);
                       for (std::int64_t i = 0; i < y.count(); ++i) y[i] += x[1][i];
                       return y;
                     }),
                     .parameters = {0},
                     .reduction_length = 4});
  }
  check(cases);
}

TEST(SequenceMean, over_real_tokens_or_by_a_divisor) {
  std::vector<OpCase> cases;
  for (const std::vector<int>& lengths : batches)
    for (const std::int64_t divisor : {0, 40}) {
      const SequenceLayout layout = layout_of(lengths, 40);
      cases.push_back(
          {.name = format_text("sequence_mean of {} by {}", lengths, divisor),
           .inputs = {normal_array({layout.tokens(), 5}, 132)},
           .function = one_result([=](auto x) { return sequence_mean(x[0], on(x[0], layout), divisor); }),
           .reference = one_array([=](const Arrays& x) { return sequence_means(x[0], lengths, divisor); }),
           .reduction_length = 33});
    }
  const SequenceLayout none = layout_of({}, 4);
  cases.push_back({.name = "sequence_mean of no sequences",
                   .inputs = {Array({0, 5})},
                   .function = one_result([none](auto x) { return sequence_mean(x[0], on(x[0], none)); }),
                   .reference = one_array([](const Arrays& x) { return x[0]; }),
                   .is_empty = true});
  check(cases);
}

TEST(SequenceMean, of_empty_sequences_is_zero) {
  const Tensor x = zeros({0, 3}, DType::float32);
  EXPECT_EQ(sequence_mean(x, layout_of({0, 0}, 4)).to_vector<float>(), std::vector<float>(6, 0));
}

TEST(SequenceFirst, takes_the_first_token) {
  std::vector<OpCase> cases;
  for (const auto& [lengths, firsts] : std::vector<std::pair<std::vector<int>, std::vector<std::int32_t>>>{
           {{1}, {0}}, {{3, 1, 5}, {0, 3, 4}}}) {
    const SequenceLayout layout = layout_of(lengths, 40);
    cases.push_back(
        {.name = format_text("sequence_first of {}", lengths),
         .inputs = {normal_array({layout.tokens(), 7}, 133)},
         .function = one_result([layout](auto x) { return sequence_first(x[0], on(x[0], layout)); }),
         .reference = one_array([firsts = firsts](const Arrays& x) { return looked_up(x[0], firsts); })});
  }
  check(cases);
}

TEST(Embedding, mistakes_are_named) {
  const Tensor table = zeros({4, 3}, DType::float32);
  EXPECT_TRUE(mentions(thrown_error([&] {
                         embedding(ids_of({1, 4}), table);
                       }),
                       "embedding: ids must lie in [0, 4), got 4 at place 1"));
  EXPECT_TRUE(mentions(thrown_error([&] { embedding(ids_of({-1}), table); }), "got -1 at place 0"));
  EXPECT_TRUE(mentions(thrown_error([&] { embedding(zeros({2}, DType::int64), table); }), "int64"));
  const SequenceLayout layout = layout_of({2, 0}, 4);
  const Tensor x = zeros({2, 3}, DType::float32);
  EXPECT_TRUE(
      mentions(thrown_error([&] { sequence_first(x, layout); }), "sequence_first: a sequence has no token"));
  EXPECT_TRUE(mentions(thrown_error([&] { sequence_mean(table, layout); }), "sequence_mean: "));
  EXPECT_TRUE(mentions(thrown_error([&] { position_rows(table, layout_of({2}, 5), DType::float32); }),
                       "position_rows: the table must be float32 [at least 5, width]"));
}

}  // namespace
}  // namespace tern::test
