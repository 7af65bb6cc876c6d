#include "tern/attention.h"
#include "tern/memory.h"

namespace tern {
namespace {

LinearOptions linear_options(const AttentionLayerOptions& options) {
  return {.bound = options.bound, .has_bias = options.has_bias};
}

}  // namespace

MultiHeadAttention::MultiHeadAttention(const Scope& scope, std::int64_t width, const AttentionShape& shape,
                                       const Build& build, const AttentionLayerOptions& options)
    : shape_(shape),
      query_key_value_(scope.child("query_key_value"), width, 3 * shape.heads * shape.head_width,
                       linear_options(options)),
      output_(scope.child("output"), shape.heads * shape.head_width, width, linear_options(options)),
      mechanism_(build(scope, shape)),
      sinusoids_(options.sinusoids),
      path_(scope.path()) {}

Tensor MultiHeadAttention::operator()(const Tensor& x, const SequenceLayout& layout, bool training) {
  const ModuleScope memory(path_);
  return with_context(
      [&] { return path_; },
      [&] {
        const Tensor product = reshape(query_key_value_(x), {x.size(0), 3, shape_.heads, shape_.head_width});
        const std::vector<Tensor> parts = unstack(product, 1);
        const auto placed = [&](const Tensor& rows) {
          return sinusoids_.defined() ? rotary(rows, sinusoids_, layout) : rows;
        };
        const Tensor heads =
            mechanism_->forward({placed(parts[0]), placed(parts[1]), parts[2], layout, training});
        return output_(reshape(heads, {x.size(0), shape_.heads * shape_.head_width}));
      });
}

}  // namespace tern
