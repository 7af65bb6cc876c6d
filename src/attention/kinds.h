// One declaration for each mechanism; its definition is the file of its name.
#pragma once

#include "tern/attention.h"

namespace tern {

AttentionKind no_attention();
AttentionKind softmax_attention_kind();
AttentionKind yoso_attention();

}  // namespace tern
