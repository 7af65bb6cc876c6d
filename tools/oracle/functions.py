"""Functions of the encoder, written from their formulas; every n x n matrix is formed.

Shapes: query, key, value [..., length, head_width]; mask [..., length], 1 for real tokens.
"""

import math

import torch
import torch.nn.functional as F

NORM_FLOOR = 1e-12
COSINE_LIMIT = 1 - 1e-6
MASKED_SCORE = -1e6


def l2_normalize(x):
    """x / max(|x|, 1e-12), row by row."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(NORM_FLOOR)


class CollisionProbability(torch.autograd.Function):
    """p = (1 - arccos(s) / pi)^bits with s clamped to +-(1 - 1e-6).

    The derivative is taken at the clamped s and does not vanish where s is clamped:
    'surrogate' is bits / 2 * p, 'exact' is bits * (1 - arccos(s) / pi)^(bits - 1) / (pi * sqrt(1 - s^2)).
    """

    @staticmethod
    def forward(ctx, cosine, bits, gradient):
        if gradient not in ("surrogate", "exact"):
            raise ValueError(f"gradient must be surrogate or exact, got {gradient}")
        cosine = cosine.clamp(-COSINE_LIMIT, COSINE_LIMIT)
        side = 1 - torch.acos(cosine) / math.pi
        ctx.bits, ctx.gradient = bits, gradient
        ctx.save_for_backward(cosine, side)
        return side**bits

    @staticmethod
    def backward(ctx, dp):
        cosine, side = ctx.saved_tensors
        if ctx.gradient == "surrogate":
            slope = ctx.bits / 2 * side**ctx.bits
        else:
            slope = ctx.bits * side ** (ctx.bits - 1) / (math.pi * torch.sqrt(1 - cosine**2))
        return dp * slope, None, None


def yoso_expectation(query, key, value, mask, bits, gradient):
    """y_i = sum_j p_ij value_j over the real tokens j; query and key are unit rows."""
    probability = CollisionProbability.apply(query @ key.transpose(-1, -2), bits, gradient)
    return (probability * mask.unsqueeze(-2)) @ value


def yoso_attention(query, key, value, mask, bits, gradient):
    """The unit rows y_i / |y_i| of the expectation for normalised queries and keys."""
    return l2_normalize(yoso_expectation(l2_normalize(query), l2_normalize(key), value, mask, bits, gradient))


def softmax_scores(query, key, mask):
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return scores + MASKED_SCORE * (1 - mask).unsqueeze(-2)


def softmax_attention(query, key, value, mask):
    """softmax(query key^T / sqrt(head_width)) value over the real tokens."""
    return torch.softmax(softmax_scores(query, key, mask), dim=-1) @ value


def head_convolution(value, weight):
    """y[b, i, h] = sum_u weight[h, u + window // 2] * value[b, i + u, h]; weight [heads, window], window odd;
    value [batch, length, heads, head_width] is 0 where masked."""
    heads, window = weight.shape
    padded = F.conv2d(
        value.permute(0, 2, 1, 3), weight[:, None, :, None], padding=(window // 2, 0), groups=heads
    )
    return padded.permute(0, 2, 1, 3)


def sinusoidal_positions(length, width, dtype):
    """Row p: sin(p / 10000^(2i / width)) in column 2i, the cosine in column 2i + 1."""
    position = torch.arange(length, dtype=torch.float64)[:, None]
    angle = position / 10000 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    table = torch.empty(length, width, dtype=torch.float64)
    table[:, 0::2] = torch.sin(angle)
    table[:, 1::2] = torch.cos(angle[:, : width // 2])
    return table.to(dtype)
