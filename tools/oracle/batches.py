"""Padded batches and their ragged form: only real tokens, one sequence after another."""

import torch


def padded_batch(golden, lengths, padded_length, vocabulary, gaps=()):
    """Random ids 1 .. vocabulary - 1, one row for each length; (row, position) in `gaps` are masked."""
    tokens = golden.integers(1, vocabulary, len(lengths), padded_length)
    for row, length in enumerate(lengths):
        tokens[row, length:] = 0
    for row, position in gaps:
        tokens[row, position] = 0
    return tokens


def ragged(tokens):
    """tokens [real], offsets [sequences + 1], position [real] of padded tokens [sequences, length]."""
    mask = tokens != 0
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(dim=1).cumsum(0)])
    return {"tokens": tokens[mask], "offsets": offsets, "position": mask.nonzero()[:, 1]}


def padded(tokens, offsets, position, padded_length):
    """The inverse of `ragged`."""
    rows = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
    out = torch.zeros(len(offsets) - 1, padded_length, dtype=torch.int64)
    out[rows, position] = tokens
    return out


def split_rows(x, offsets):
    """The rows of each sequence of x [tokens, ...]."""
    return [x[int(a) : int(b)] for a, b in zip(offsets[:-1], offsets[1:])]
