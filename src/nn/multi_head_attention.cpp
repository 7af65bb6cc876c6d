#include "tern/attention.h"
#include "tern/memory.h"

namespace tern {

MultiHeadAttention::MultiHeadAttention(const Scope& scope, std::int64_t width, const AttentionShape& shape,
                                       const Build& build)
    : shape_(shape),
      query_key_value_(scope.child("query_key_value"), width, 3 * shape.heads * shape.head_width),
      output_(scope.child("output"), shape.heads * shape.head_width, width),
      mechanism_(build(scope, shape)),
      path_(scope.path()) {}

Tensor MultiHeadAttention::operator()(const Tensor& x, const SequenceLayout& layout, bool training) {
  const ModuleScope memory(path_);
  return with_context(
      [&] { return path_; },
      [&] {
        const Tensor product = reshape(query_key_value_(x), {x.size(0), 3, shape_.heads, shape_.head_width});
        const std::vector<Tensor> parts = unstack(product, 1);
        const Tensor heads = mechanism_->forward({parts[0], parts[1], parts[2], layout, training});
        return output_(reshape(heads, {x.size(0), shape_.heads * shape_.head_width}));
      });
}

}  // namespace tern
