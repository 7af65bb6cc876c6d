// One declaration for each mechanism; its definition is the file of its name.
#pragma once

#include "tern/attention.h"

namespace tern {

AttentionKind block_sparse_attention();
AttentionKind hyper_attention();
AttentionKind lightning_attention();
AttentionKind linear_attention();
AttentionKind linformer_attention();
AttentionKind longformer_attention();
AttentionKind no_attention();
AttentionKind nystrom_attention();
AttentionKind performer_attention();
AttentionKind reformer_attention();
AttentionKind routing_attention();
AttentionKind sea_attention();
AttentionKind softmax_attention_kind();
AttentionKind taylor_attention();
AttentionKind yoso_attention();

}  // namespace tern
