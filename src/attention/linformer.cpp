#include <cmath>

#include "attention/kinds.h"

namespace tern {
namespace {

/// softmax(q (E k)^T / sqrt(head width)) F v: keys and values projected along the sequence to few rows by
/// learned matrices that the heads share. Source: Wang et al. 2020, "Linformer", arXiv 2006.04768, equation 7
/// and section 4.
class LinformerAttention final : public Attention {
 public:
  struct Config {
    std::int64_t projected_length = 256;
    bool shared_key_value = false;
    void fields(Fields& f) {
      f("projected_length", projected_length, "rows that keys and values are projected to", between(1, 65536));
      f("shared_key_value", shared_key_value, "one projection for keys and values");
    }
  };
  static constexpr AttentionTraits traits{};

  LinformerAttention(const Config& config, const Scope& scope, const AttentionShape& shape)
      : scale_(1 / std::sqrt(static_cast<double>(shape.head_width))) {
    const auto projection = [&](const char* name) {
      return &scope.parameter(name, {shape.max_length, config.projected_length}, normal(0.02));
    };
    key_ = projection("key.weight");
    value_ = config.shared_key_value ? key_ : projection("value.weight");
  }

  Tensor forward(const AttentionInput& in) override {
    const Tensor key_rows = rows_of(*key_, in), value_rows = value_ == key_ ? key_rows : rows_of(*value_, in);
    const Tensor keys = affine(projected(in.key, key_rows, in.layout), scale_),
                 values = projected(in.value, value_rows, in.layout);
    return projected_attention(in.query, keys, values, in.layout);
  }

  static double multiply_adds(const Config& config, const AttentionShape& shape, double length) {
    return 4 * length * static_cast<double>(shape.heads * shape.head_width * config.projected_length);
  }
  /// The weights of all heads, and the projections' rows.
  static double kept_numbers(const Config& config, const AttentionShape& shape, double length) {
    return length *
           static_cast<double>((shape.heads + (config.shared_key_value ? 1 : 2)) * config.projected_length);
  }

 private:
  /// The row of the projection for each token's position: a position that is absent takes no part.
  static Tensor rows_of(const Parameter& projection, const AttentionInput& in) {
    const Tensor rows = position_rows(projection.value, in.layout, in.query.dtype());
    return reshape(rows, {rows.size(0), 1, rows.size(1)});
  }

  /// Sum over each sequence of row_t x_t^T, [sequences, heads, projected length, width]. All heads are columns
  /// of one product, so that rows are not repeated for them.
  static Tensor projected(const Tensor& x, const Tensor& rows, const SequenceLayout& layout) {
    const std::int64_t heads = x.size(1), width = x.size(2);
    const Tensor sums = outer_sums(rows, reshape(x, {x.size(0), 1, heads * width}), layout);
    return permute(reshape(sums, {layout.sequences(), rows.size(2), heads, width}), {0, 2, 1, 3});
  }

  double scale_;
  Parameter *key_, *value_;
};

}  // namespace

AttentionKind linformer_attention() {
  return attention_kind<LinformerAttention>(
      "linformer", "keys and values projected along the sequence to few rows: linear time and memory");
}

}  // namespace tern
