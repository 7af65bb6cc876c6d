"""Single functions, forward and backward, on awkward sizes."""

import torch
import torch.nn.functional as F

from oracle import functions
from oracle.batches import split_rows
from oracle.golden_file import GoldenFile

OFFSETS = torch.tensor([0, 9, 10, 10, 27])
HEADS, HEAD_WIDTH = 2, 6
BITS = (1, 8, 11)


def with_gradients(outputs, inputs, douts):
    return torch.autograd.grad(outputs, inputs, douts)


def add_unary(golden, prefix, function, x, dy=None):
    x = x.requires_grad_()
    y = function(x)
    dy = golden.normal(*y.shape) if dy is None else dy
    golden.add(prefix + ".", x=x, y=y, dy=dy, dx=with_gradients(y, x, dy)[0])


def add_layer_norm(golden):
    x = golden.normal(7, 19, scale=2.0, shift=0.5)
    x[3] = 1.25  # variance 0
    x[5] *= 1e-4  # variance below eps
    x[6] += 1e4  # a mean far above the deviation
    x = x.requires_grad_()
    weight = golden.normal(19, scale=0.3, shift=1.0).requires_grad_()
    bias = golden.normal(19).requires_grad_()
    y = F.layer_norm(x, (19,), weight, bias, 1e-5)
    dy = golden.normal(7, 19)
    dx, dweight, dbias = with_gradients(y, (x, weight, bias), dy)
    golden.add("layer_norm.", x=x, weight=weight, bias=bias, y=y, dy=dy, dx=dx, dweight=dweight, dbias=dbias)


def add_cross_entropy(golden):
    logits = golden.normal(6, 11, scale=3.0)
    logits[1] += 1e3  # overflows a plain exp
    logits[2, 4] = 500.0
    logits[3] = 0.0
    labels = golden.integers(0, 11, 6)
    labels[2] = 4
    logits = logits.requires_grad_()
    losses = F.cross_entropy(logits, labels, reduction="none")
    golden.add("cross_entropy.", logits=logits, labels=labels, losses=losses, loss=losses.mean())
    golden.put("cross_entropy.dlogits", with_gradients(losses.mean(), logits, None)[0])


def add_head_convolution(golden):
    """Two sequences with masked positions, as the ragged form of a padded batch of length 11."""
    position = torch.tensor([0, 1, 2, 4, 5, 10, 1, 2, 3])
    sequence = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1])
    value = golden.normal(len(position), 2, 3).requires_grad_()
    weight = golden.normal(2, 5).requires_grad_()
    padded = torch.zeros(2, 11, 2, 3, dtype=torch.float64).index_put((sequence, position), value)
    y = functions.head_convolution(padded, weight)[sequence, position]
    dy = golden.normal(*y.shape)
    dvalue, dweight = with_gradients(y, (value, weight), dy)
    golden.add(
        "head_convolution.", offsets=torch.tensor([0, 6, 9]), position=position, value=value, weight=weight
    )
    golden.add("head_convolution.", y=y, dy=dy, dvalue=dvalue, dweight=dweight)


def functions_file():
    golden = GoldenFile(
        "functions",
        200,
        {"layer_norm_eps": 1e-5, "norm_floor": functions.NORM_FLOOR},
        "gelu is the erf form; cross_entropy.loss is the mean of losses, dlogits its gradient; "
        "head_convolution: y[i, h] = sum_u weight[h, u + 2] * value at position[i] + u of the same sequence, "
        "0 where masked",
    )
    add_layer_norm(golden)
    gelu_x = golden.normal(3, 37, scale=2.0)
    gelu_x[0, :6] = torch.tensor([0.0, 1e-6, -1e-6, 10.0, -10.0, -40.0], dtype=torch.float64)
    add_unary(golden, "gelu", F.gelu, gelu_x)
    softmax_x = golden.normal(5, 23, scale=4.0)
    softmax_x[1] += 1e3
    softmax_x[2, 7] = 800.0
    softmax_x[3] = 0.0
    add_unary(golden, "softmax", lambda x: torch.softmax(x, dim=-1), softmax_x)
    norm_x = golden.normal(9, 33)
    norm_x[2] *= 1e-7
    norm_x[4] *= 1e5
    norm_x[6, 1:] = 0.0
    add_unary(golden, "l2_normalize", functions.l2_normalize, norm_x)
    add_head_convolution(golden)
    add_cross_entropy(golden)
    return golden


def per_sequence(function, *inputs):
    """Applies `function` to [heads, length, ...] of each sequence of inputs [tokens, heads, ...]."""
    parts = zip(*(split_rows(x, OFFSETS) for x in inputs))
    return torch.cat([function(*(x.transpose(0, 1) for x in part)).transpose(0, 1) for part in parts])


def ones(query):
    return query.new_ones(query.shape[:-1])


def expectation(bits, gradient):
    return lambda q, k, v: functions.yoso_expectation(q, k, v, ones(q), bits, gradient)


def normalized_attention(bits, gradient):
    return lambda q, k, v: functions.yoso_attention(q, k, v, ones(q), bits, gradient)


def attention_inputs(golden):
    tokens = int(OFFSETS[-1])
    return [golden.normal(tokens, HEADS, HEAD_WIDTH) for _ in range(4)]


def yoso_expectation_file():
    golden = GoldenFile(
        "yoso_expectation",
        300,
        {"bits": BITS, "heads": HEADS, "head_width": HEAD_WIDTH, "cosine_limit": functions.COSINE_LIMIT},
        "arrays are [tokens, heads, head_width]; unit.q, unit.k are unit rows and y = p v; raw.q, raw.k are "
        "any rows, normalised inside, and out = y / |y|; gradients of the surrogate and of the exact "
        "derivative; of sequence 0, keys 1 and 2 equal a query, keys 3 and 4 are opposite to one",
    )
    query, key, value, dy = attention_inputs(golden)
    key[1], key[2] = query[0], 3 * query[5]
    key[3], key[4] = -query[1], -0.5 * query[4]
    golden.add(v=value, dy=dy, offsets=OFFSETS)
    golden.add("raw.", q=query, k=key)
    unit = [functions.l2_normalize(query), functions.l2_normalize(key)]
    golden.add("unit.", q=unit[0], k=unit[1])
    for bits in BITS:
        for prefix, out_name, rows, function in (
            ("unit", "y", unit, expectation),
            ("raw", "out", [query, key], normalized_attention),
        ):
            inputs = [*rows, value]
            add_attention_gradients(golden, f"{prefix}.bits_{bits}", out_name, inputs, dy, function, bits)
    return golden


def add_attention_gradients(golden, prefix, out_name, inputs, dy, function, bits):
    for gradient in ("surrogate", "exact"):
        inputs = [x.detach().clone().requires_grad_() for x in inputs]
        out = per_sequence(function(bits, gradient), *inputs)
        dq, dk, dv = with_gradients(out, inputs, dy)
        golden.add(f"{prefix}.{gradient}.", dq=dq, dk=dk)
    golden.put(f"{prefix}.{out_name}", out)
    golden.put(f"{prefix}.dv", dv)  # the same for both


def softmax_attention_file():
    golden = GoldenFile(
        "softmax_attention",
        400,
        {"heads": HEADS, "head_width": HEAD_WIDTH},
        "arrays are [tokens, heads, head_width]; out = softmax(q k^T / sqrt(head_width)) v; "
        "lse [heads, tokens]: log of the sum of exponentials of each row of scores",
    )
    inputs = [x.requires_grad_() for x in attention_inputs(golden)[:3]]
    out = per_sequence(lambda q, k, v: functions.softmax_attention(q, k, v, ones(q)), *inputs)
    lse = per_sequence(lambda q, k: functions.softmax_scores(q, k, ones(k)).logsumexp(-1), *inputs[:2])
    dout = golden.normal(*out.shape)
    dq, dk, dv = with_gradients(out, inputs, dout)
    golden.add(q=inputs[0], k=inputs[1], v=inputs[2], out=out, lse=lse.T, dout=dout, dq=dq, dk=dk, dv=dv)
    golden.put("offsets", OFFSETS)
    return golden
