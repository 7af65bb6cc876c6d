// Rows for attention alone, as benchmarks need them: of any size, equal for equal seeds.
#pragma once

#include <array>

#include "tern/config.h"
#include "tern/sequence_layout.h"

namespace tern::app {

/// How queries and keys are drawn. The work of mechanisms that hash depends on it.
enum class RowLaw {
  random,     ///< independent standard normal rows
  mean,       ///< the same, and per head one common row of equal length added to all: typical cosine 1/2
  equal_keys  ///< standard normal queries; per head one normal row for all keys
};
constexpr auto enum_names(RowLaw) {
  return std::array{EnumName{RowLaw::random, "random"}, EnumName{RowLaw::mean, "mean"},
                    EnumName{RowLaw::equal_keys, "equal-keys"}};
}

struct RowShape {
  std::int64_t tokens, heads, head_width;
  bool operator==(const RowShape&) const = default;
};

/// [tokens, heads, head_width] each; query, key and value are views of one product, as a model has them. Values
/// and the result's gradient are standard normal.
struct AttentionRows {
  Tensor query, key, value, gradient;
};
/// Rows that depend on the seed, the law, and their token and shape only.
AttentionRows attention_rows(RowLaw law, const RowShape& shape, std::uint64_t seed, DType dtype, Device device);

/// `sequences` of `length` tokens each, one after another.
SequenceLayout equal_sequences(std::int64_t sequences, std::int64_t length, Device device);

}  // namespace tern::app
