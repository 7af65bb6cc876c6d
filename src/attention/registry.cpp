// The list of mechanisms.
#include <algorithm>

#include "attention/kinds.h"

namespace tern {

const std::vector<AttentionKind>& attention_kinds() {
  static const std::vector all{no_attention(),           softmax_attention_kind(), yoso_attention(),
                               linear_attention(),       performer_attention(),    taylor_attention(),
                               nystrom_attention(),      linformer_attention(),    lightning_attention(),
                               reformer_attention(),     hyper_attention(),        longformer_attention(),
                               block_sparse_attention(), sea_attention(),          routing_attention()};
  return all;
}

std::span<const ChoiceKind> attention_choices() {
  static const std::vector choices = [] {
    std::vector<ChoiceKind> out;
    for (const AttentionKind& kind : attention_kinds()) out.push_back(kind.config);
    return out;
  }();
  return choices;
}

const AttentionKind& find_attention_kind(std::string_view name) {
  const auto& kinds = attention_kinds();
  const auto found =
      std::find_if(kinds.begin(), kinds.end(), [&](const AttentionKind& kind) { return kind.name == name; });
  if (found == kinds.end())
    throw_error(ExitCode::bad_config, "attention: there is no kind {}; tern list attention names them", name);
  return *found;
}

}  // namespace tern
