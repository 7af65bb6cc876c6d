"""Attention modules of Hugging Face's transformers in float64, which the files name with its version."""

import torch
import transformers
from torch import nn

from oracle.golden_file import GoldenFile

HEADS, HEAD_WIDTH = 2, 6
WIDTH = HEADS * HEAD_WIDTH


class Columns(nn.Module):
    """Part `index` of the columns, in the place of a projection: a module then gets any q, k and v."""

    def __init__(self, index):
        super().__init__()
        self.index = index

    def forward(self, x):
        return x[..., self.index * WIDTH : (self.index + 1) * WIDTH]


def attention_rows(golden, sequences, length):
    """q, k, v and the output's gradient, [tokens, heads, head_width]."""
    return [golden.normal(sequences * length, HEADS, HEAD_WIDTH) for _ in range(4)]


def nystromformer(landmarks, length, window, option):
    config = transformers.NystromformerConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_landmarks=landmarks,
        segment_means_seq_len=length,
        conv_kernel_size=window,
        attention_probs_dropout_prob=0.0,
    )
    from transformers.models.nystromformer import modeling_nystromformer

    module = modeling_nystromformer.NystromformerSelfAttention(config).double()
    module.query, module.key, module.value = (Columns(i) for i in range(3))
    module.init_option = option  # 5.x cannot read it from the configuration
    return module


def nystromformer_file():
    sequences, length, landmarks, window = 3, 24, 6, 5
    golden = GoldenFile(
        "nystromformer",
        700,
        {"heads": HEADS, "landmarks": landmarks, "length": length, "window": window},
        "NystromformerSelfAttention with q, k and v given: arrays are [tokens, heads, head_width] of 3 "
        "sequences of 24 tokens; exact: the pseudo-inverse's start by matrix, original: by the whole batch; "
        f"transformers {transformers.__version__}",
    )
    q, k, v, dy = attention_rows(golden, sequences, length)
    q[:length] *= 3  # batches whose matrices have unequal column sums
    weight = golden.normal(HEADS, window)
    golden.add(q=q, k=k, v=v, dy=dy, weight=weight)
    for option in ("exact", "original"):
        module = nystromformer(landmarks, length, window, option)
        module.conv.weight.data = weight.clone()[:, None, :, None]
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        hidden = torch.cat([x.reshape(sequences, length, WIDTH) for x in inputs], dim=-1)
        y = module(hidden)[0].reshape(q.shape)
        dq, dk, dv, dweight = torch.autograd.grad(y, [*inputs, module.conv.weight], dy)
        golden.add(option + ".", y=y, dq=dq, dk=dk, dv=dv, dweight=dweight.reshape(weight.shape))
    return golden


class Given(nn.Module):
    """Rows [sequences, length, width] in the place of a projection of [length, sequences, width]."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, _):
        return self.rows.transpose(0, 1)


class Copy(nn.Module):
    """The input in memory of its own: modules scale the projection's result in place."""

    def forward(self, x):
        return x.clone()


def longformer(window, q, k, v, kind):
    """`kind` is 0 for padding, 1 for a token and 2 for a global one. The hidden states are the queries."""
    config = transformers.LongformerConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        attention_window=[window],
        attention_probs_dropout_prob=0.0,
    )
    from transformers.models.longformer import modeling_longformer

    module = modeling_longformer.LongformerSelfAttention(config, layer_id=0).double()
    module.query = module.query_global = Copy()
    module.key = module.key_global = Given(k)
    module.value = module.value_global = Given(v)
    return module(
        q,
        attention_mask=(kind.double() - 1) * 10000,
        is_index_masked=kind == 0,
        is_index_global_attn=kind == 2,
        is_global_attn=bool((kind == 2).any()),
    )[0]


def longformer_file():
    sequences, length, window = 3, 32, 8
    golden = GoldenFile(
        "longformer",
        710,
        {"heads": HEADS, "length": length, "window": window},
        "LongformerSelfAttention with q, k and v given, the same for global tokens: arrays are [sequences, "
        "length, width]; kind is 0 for padding, 1 for a token, 2 for a global one; its softmax is float32; "
        f"transformers {transformers.__version__}",
    )
    q, k, v, dy = (golden.normal(sequences, length, WIDTH) for _ in range(4))
    golden.add(q=q, k=k, v=v, dy=dy)
    for count in (0, 2):
        kind = torch.ones(sequences, length, dtype=torch.long)
        kind[:, :count] = 2
        kind[0, 5:8] = kind[0, 28:] = 0  # each window keeps a token: the module has no gradient otherwise
        kind[1, 3::4] = 0
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        y = longformer(window, *inputs, kind)
        dq, dk, dv = torch.autograd.grad(y, inputs, dy * (kind > 0)[..., None])
        golden.add(f"global_{count}.", kind=kind, y=y, dq=dq, dk=dk, dv=dv)
    return golden


def reformer(block, rounds):
    config = transformers.ReformerConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        attention_head_size=HEAD_WIDTH,
        num_hashes=rounds,
        num_buckets=8,
        lsh_attn_chunk_length=block,
        lsh_num_chunks_before=1,
        lsh_num_chunks_after=0,
        lsh_attention_probs_dropout_prob=0.0,
        is_decoder=False,
        axial_pos_embds=False,
    )
    from transformers.models.reformer import modeling_reformer

    module = modeling_reformer.LSHSelfAttention(config).double()
    module.query_key, module.value = Columns(0), Columns(1)
    return module


def reformer_file():
    sequences, length, block, rounds, buckets = 2, 32, 8, 3, 8
    golden = GoldenFile(
        "reformer",
        720,
        {"block": block, "buckets": buckets, "heads": HEADS, "length": length, "rounds": rounds},
        "LSHSelfAttention with q and v given: arrays are [tokens, heads, head_width] of 2 sequences of 32 "
        "tokens; buckets [heads, rounds, tokens] are given too; the rows of q are long, because the module "
        f"adds 1e-6 to their mean square; transformers {transformers.__version__}",
    )
    q, _, v, dy = attention_rows(golden, sequences, length)
    q = q / q.norm(dim=-1, keepdim=True) * (8 + golden.normal(*q.shape[:2], 1).abs())
    codes = golden.integers(0, buckets, HEADS, rounds, sequences, length)
    golden.add(q=q, v=v, dy=dy, buckets=codes.flatten(2))
    offsets = buckets * torch.arange(rounds)[:, None, None]  # the module sorts all rounds at once
    given = (codes + offsets).permute(2, 0, 1, 3).reshape(sequences, HEADS, rounds * length)
    inputs = [x.clone().requires_grad_() for x in (q, v)]
    hidden = torch.cat([x.reshape(sequences, length, WIDTH) for x in inputs], dim=-1)
    y = reformer(block, rounds)(hidden, buckets=given).hidden_states.reshape(q.shape)
    dq, dv = torch.autograd.grad(y, inputs, dy)
    golden.add(y=y, dq=dq, dv=dv)
    return golden


def huggingface_files():
    return [nystromformer_file(), longformer_file(), reformer_file()]
