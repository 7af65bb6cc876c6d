// One declaration for each mechanism; its definition is the file of its name.
#pragma once

#include "tern/attention.h"

namespace tern {

AttentionKind linear_attention();
AttentionKind no_attention();
AttentionKind performer_attention();
AttentionKind softmax_attention_kind();
AttentionKind taylor_attention();
AttentionKind yoso_attention();

}  // namespace tern
