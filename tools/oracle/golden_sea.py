"""SEA for encoders (Lee et al. 2024, arXiv 2310.01777, section 3) from whole matrices, in float64."""

import torch
from torch.nn import functional

from oracle.golden_file import GoldenFile

HEADS, WIDTH, SEGMENTS, KEYS, CHANNELS = 2, 4, 5, 3, 2
LENGTHS = (17, 1, 8, 3)
STABILIZER = 1e-6
# The orthogonal directions that the tests' mechanism draws: rows of its random features.
DIRECTIONS = (
    (-0.1513671875, -0.5078125, -1.2109375, 0.05615234375),
    (1.7734375, -1.328125, 0.296875, -0.9296875),
    (-2.421875, -2.46875, 1.3125, -0.65625),
    (-0.33984375, 0.60546875, -0.287109375, -1.6015625),
    (0.09716796875, -0.1591796875, -0.8046875, -0.337890625),
    (-1.09375, -0.1123046875, 0.228515625, -0.8046875),
)


def features(x, directions, over_tokens):
    """FAVOR+ features of x [heads, n, width]; the largest exponents are constants."""
    x = x * WIDTH**-0.25
    square = (x * x).sum(-1, keepdim=True) / 2
    products = x @ directions.T
    if over_tokens:
        exponents = products - square
        return torch.exp(exponents - exponents.amax((1, 2), keepdim=True).detach()) + STABILIZER
    return torch.exp(products - products.amax(-1, keepdim=True).detach()) + STABILIZER


def performer_context(q, k, v, directions):
    n = q.shape[1]
    unit = torch.eye(WIDTH, dtype=q.dtype)[None, None]
    places = functional.interpolate(unit, size=(n, WIDTH), mode="bilinear", align_corners=True)[0]
    weights = features(q, directions, False) @ features(k, directions, True).transpose(1, 2)
    return weights / weights.sum(-1, keepdim=True) @ torch.cat([places.expand(HEADS, -1, -1), v], -1)


def estimate(summary, used, p):
    """Scores of the decoder -> the estimated attention to the first `used` columns, [heads, n, used]."""
    rows = functional.linear(summary, p["decoder.weight"], p["decoder.bias"])
    n = rows.shape[1]
    picture = rows.reshape(HEADS, n, CHANNELS, SEGMENTS).transpose(1, 2)
    picture = picture.reshape(1, HEADS * CHANNELS, n, SEGMENTS)
    for i in range(3):
        weight, bias = p[f"convolution_{i}.weight"], p.get(f"convolution_{i}.bias")
        picture = functional.conv2d(picture, weight, bias, padding=1)
        if i < 2:
            picture = functional.relu(picture)
    return torch.softmax(picture[0, :, :, :used], dim=-1)


def selected_mask(weights, counts, n):
    """Which keys a query sees, [heads, n, n]: all heads' columns of a query compete."""
    used = weights.shape[-1]
    flat = weights.detach().transpose(0, 1).reshape(n, HEADS * used)
    pairs = min(max(int(HEADS * KEYS * used / n + 0.5), 1), HEADS * used)
    chosen = torch.zeros_like(flat).scatter_(1, flat.topk(pairs).indices, 1.0)
    return torch.repeat_interleave(chosen.reshape(n, HEADS, used).transpose(0, 1), counts, dim=-1) > 0


def sea(q, k, v, p, directions):
    """One sequence: q, k, v [n, heads, width]."""
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    n = q.shape[1]
    used = min(SEGMENTS, n)
    counts = torch.tensor([(i + 1) * n // used - i * n // used for i in range(used)])
    joined = torch.cat([performer_context(q, k, v, directions), v], -1)
    hidden = functional.linear(joined, p["encoder.weight"], p["encoder.bias"])
    summary = functional.layer_norm(hidden, (2 * WIDTH,), p["norm.weight"], p["norm.bias"])
    summary = functional.gelu(summary)
    weights = estimate(summary, used, p)
    gates = torch.sigmoid(functional.linear(summary, p["gates.weight"], p["gates.bias"]))
    mask = selected_mask(weights, counts, n)
    scores = (q @ k.transpose(1, 2) / WIDTH**0.5).masked_fill(~mask, -1e300)
    exact = torch.softmax(scores, dim=-1).masked_fill(~mask, 0) @ v
    share = torch.repeat_interleave(weights.mean(1) / counts, counts, dim=-1)
    average = (share[:, None] @ v).expand_as(v)
    y = gates[..., 1:] * gates[..., :1] * exact + (1 - gates[..., 1:]) * average
    return y.transpose(0, 1)


def parameters(golden):
    channels = HEADS * CHANNELS
    linears = {
        "encoder": (2 * WIDTH, 3 * WIDTH),
        "decoder": (CHANNELS * SEGMENTS, 2 * WIDTH),
        "gates": (2, 2 * WIDTH),
        "convolution_0": (channels, channels, 3, 3),
        "convolution_1": (channels, channels, 3, 3),
        "convolution_2": (HEADS, channels, 3, 3),
    }
    out = {"norm.weight": golden.normal(2 * WIDTH, scale=0.3, shift=1), "norm.bias": golden.normal(2 * WIDTH)}
    for name, shape in linears.items():
        out[name + ".weight"] = golden.normal(*shape, scale=0.5)
        if name != "convolution_2":  # the softmax behind it does not see a bias
            out[name + ".bias"] = golden.normal(shape[0], scale=0.5)
    return {name: value.requires_grad_() for name, value in out.items()}


def sea_file():
    golden = GoldenFile(
        "sea",
        740,
        {
            "channels": CHANNELS,
            "features": len(DIRECTIONS),
            "keys": KEYS,
            "lengths": LENGTHS,
            "segments": SEGMENTS,
        },
        "arrays are [tokens, heads, head_width] of sequences of `lengths` tokens; segment i of l begins at "
        "token i n // l, and l is no larger than n; the average takes the mean of a segment's values",
    )
    q, k, v, dy = (golden.normal(sum(LENGTHS), HEADS, WIDTH) for _ in range(4))
    p = parameters(golden)
    directions = torch.tensor(DIRECTIONS, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    rows = zip(*(x.split(LENGTHS) for x in inputs))
    y = torch.cat([sea(*sequence, p, directions) for sequence in rows])
    gradients = torch.autograd.grad(y, [*inputs, *p.values()], dy)
    golden.add(q=q, k=k, v=v, dy=dy, directions=directions, y=y)
    golden.add("parameters.", **p)
    golden.add("gradients.", **dict(zip(["q", "k", "v", *p], gradients)))
    return golden
