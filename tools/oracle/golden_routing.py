"""Routing Transformer for encoders (Roy et al. 2021, arXiv 2003.05997, algorithm 1) by gathers, in float64."""

import torch
from torch.nn import functional

from oracle.golden_file import GoldenFile

HEADS, WIDTH, CLUSTERS, WINDOW = 2, 8, 3, 4
LENGTHS = (19, 1, 8, 3)
COMMITMENT = 0.3


def directions(x, is_published):
    """Rows by which tokens are routed: x [heads, n, width]."""
    if is_published:
        return functional.normalize(x, dim=-1)
    return functional.layer_norm(x, (WIDTH,)) / WIDTH**0.5


def members(scores, window):
    """Tokens of each cluster, [heads, clusters * window]."""
    return scores.topk(window, dim=1).indices.transpose(1, 2).flatten(1)


def gathered(x, tokens):
    """[heads, clusters, window, width]."""
    rows = x.gather(1, tokens[..., None].expand(-1, -1, WIDTH))
    return rows.unflatten(1, (CLUSTERS, -1))


def routed(q, k, v, centroids, window, is_published):
    """One sequence, q, k, v [n, heads, width]: its output, and the loss of commitment."""
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    n = q.shape[1]
    window = min(window, n) if window else -(-n // CLUSTERS)
    u, w = directions(q, is_published), directions(k, is_published)
    scores = [x @ centroids.transpose(1, 2) for x in (u, w)]
    queries, keys = (members(x.detach(), window) for x in scores)
    if not is_published:
        q, k = u * WIDTH**0.5, w * WIDTH**0.5
    products = gathered(q, queries) @ gathered(k, keys).transpose(-1, -2)
    rows = (torch.softmax(products / WIDTH**0.5, dim=-1) @ gathered(v, keys)).flatten(1, 2)
    place = queries[..., None].expand_as(rows)
    count = torch.zeros_like(v).scatter_add(1, place, torch.ones_like(rows))
    y = torch.zeros_like(v).scatter_add(1, place, rows) / count.clamp(min=1)
    # mean of (u - c)^2 over elements where u and c have length 1
    apart = torch.cat([2 - 2 * x.amax(-1) for x in scores], dim=1) / WIDTH
    return y.transpose(0, 1), COMMITMENT * apart.mean()


def routing_file():
    golden = GoldenFile(
        "routing",
        750,
        {
            "clusters": CLUSTERS,
            "commitment": COMMITMENT,
            "lengths": LENGTHS,
            "window": WINDOW,
        },
        "arrays are [tokens, heads, head_width] of sequences of `lengths` tokens, centroids [heads, clusters, "
        "head_width]; gradients are of sum(y dy) and the losses of commitment of all sequences",
    )
    q, k, v, dy = (golden.normal(sum(LENGTHS), HEADS, WIDTH) for _ in range(4))
    centroids = functional.normalize(golden.normal(HEADS, CLUSTERS, WIDTH), dim=-1)
    inputs = [x.requires_grad_() for x in (q, k, v, centroids)]
    golden.add(q=q, k=k, v=v, centroids=centroids, dy=dy)
    for form in ("paper", "published"):
        for window in (0, WINDOW):
            parts = [
                routed(*sequence, centroids, window, form == "published")
                for sequence in zip(*(x.split(LENGTHS) for x in inputs[:3]))
            ]
            y = torch.cat([part[0] for part in parts])
            total = (y * dy).sum() + sum(part[1] for part in parts)
            gradients = torch.autograd.grad(total, inputs)
            golden.add(f"{form}.{window}.", y=y)
            golden.add(f"{form}.{window}.d", **dict(zip(("q", "k", "v", "centroids"), gradients)))
    return golden
