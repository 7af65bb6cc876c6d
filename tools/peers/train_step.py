"""PyTorch's time for one training step of the Long Range Arena's models, for same-run comparisons.

    python tools/peers/train_step.py --threads 2 --modes eager,compile --dropout 0.1 --batch 32 --length 2048
    python tools/peers/train_step.py --device cuda --modes reduce-overhead --length 4096 --vocabulary 512

A step is forward, backward and AdamW: in float32 on the CPU by wall clock, under bfloat16 autocast with fused
AdamW on CUDA by device events. Attention is scaled_dot_product_attention. --pair gives the head two sequences.
Every sequence has --length tokens and no mask, PyTorch's easiest case. With --lengths FILE (one number a line)
the tokens beyond a sequence's length are padding, masked as published, and each step takes the next --batch
numbers of the file; --pad longest pads only to the longest sequence of the batch. Prints one JSON line for each
mode.

By default the C library keeps freed memory for the next step: with dropout PyTorch forms the n x n matrices,
and asking the system for their gigabytes anew in each step takes longer than the arithmetic. --allocator system
leaves it as PyTorch comes.
"""

import argparse
import ctypes
import json
import resource
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class Layer(nn.Module):
    def __init__(self, options):
        super().__init__()
        width = options.width
        self.heads, self.rate = options.heads, options.dropout
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, options.hidden_width), nn.Linear(options.hidden_width, width)
        self.dropout = nn.Dropout(options.dropout)

    def attention(self, x, mask):
        batch, length, width = x.shape
        product = self.query_key_value(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = product.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=self.rate)
        return self.output(mixed.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x, mask):
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        hidden = self.dropout(F.gelu(self.up(self.feed_forward_norm(x))))
        return x + self.dropout(self.down(hidden))


class Model(nn.Module):
    def __init__(self, options):
        super().__init__()
        width = options.width
        self.padded_length = options.length
        self.token_embedding = nn.Embedding(options.vocabulary, width)
        self.position_embedding = nn.Embedding(options.length, width)
        self.layers = nn.ModuleList(Layer(options) for _ in range(options.layers))
        self.norm = nn.LayerNorm(width)
        self.is_pair = options.pair
        self.hidden = nn.Linear((4 if options.pair else 1) * width, options.hidden_width)
        self.output = nn.Linear(options.hidden_width, options.classes)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, tokens, labels, real):
        """real [batch, length]: false for padding; None where there is none."""
        mask = None if real is None else real[:, None, None, :]
        x = self.dropout(self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]])
        for layer in self.layers:
            x = layer(x, mask)
        x = self.norm(x)
        if real is not None:
            x = x * real.unsqueeze(-1)
        pooled = x.sum(dim=1) / self.padded_length
        if self.is_pair:
            a, b = pooled.chunk(2)
            pooled = torch.cat([a, b, a * b, a - b], dim=-1)
        return F.cross_entropy(self.output(F.relu(self.hidden(pooled))).float(), labels)


def make_batches(options):
    """(tokens, labels, real) for each step, warm-up included; one batch for all steps without --lengths."""
    labels = torch.randint(0, options.classes, (options.batch,))
    if options.lengths is None:
        sequences = options.batch * (2 if options.pair else 1)
        tokens = torch.randint(1, options.vocabulary, (sequences, options.length))
        return [(tokens, labels, None)] * (options.warm_up + options.reps)
    lengths = [min(int(word), options.length) for word in Path(options.lengths).read_text().split()]
    if len(lengths) < options.batch:
        raise SystemExit(
            f"{options.lengths}: a batch needs {options.batch} lengths, the file has {len(lengths)}"
        )
    batches = []
    for step in range(options.warm_up + options.reps):
        own = torch.tensor([lengths[(step * options.batch + i) % len(lengths)] for i in range(options.batch)])
        padded = int(own.max()) if options.pad == "longest" else options.length
        real = torch.arange(padded) < own[:, None]
        batches.append((torch.randint(1, options.vocabulary, real.shape) * real, labels, real))
    return batches


class HostClock:
    def __init__(self):
        self.start = time.perf_counter()

    def milliseconds(self):
        return (time.perf_counter() - self.start) * 1e3


class DeviceClock:
    def __init__(self):
        self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.start.record()

    def milliseconds(self):
        self.end.record()
        torch.cuda.synchronize()
        return self.start.elapsed_time(self.end)


def measure(mode, options):
    torch.manual_seed(0)
    torch.compiler.reset()
    is_cuda = options.device == "cuda"
    model = Model(options).to(options.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-6, weight_decay=0, fused=True)
    forward = model
    if mode != "eager":
        forward = torch.compile(model, mode=None if mode == "compile" else mode)
    milliseconds = []
    for step, batch in enumerate(make_batches(options)):
        batch = [part if part is None else part.to(options.device) for part in batch]
        if is_cuda and step == options.warm_up:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        clock = DeviceClock() if is_cuda else HostClock()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(options.device, dtype=torch.bfloat16, enabled=is_cuda):
            loss = forward(*batch)
        loss.backward()
        optimizer.step()
        milliseconds.append(clock.milliseconds())
    timed = milliseconds[options.warm_up :]
    return {
        "mode": mode,
        "median_ms": round(statistics.median(timed), 3 if is_cuda else 1),
        "min_ms": round(min(timed), 3 if is_cuda else 1),
        "reps": options.reps,
        "first_ms": round(milliseconds[0], 1),
        "loss": round(loss.item(), 4),
    }


def keep_freed_memory():
    """Turns off mmap for large blocks and trimming of the heap in glibc's malloc."""
    trim_threshold, mmap_max = -1, -4
    library = ctypes.CDLL(None)
    if not (library.mallopt(mmap_max, 0) and library.mallopt(trim_threshold, -1)):
        raise SystemExit("mallopt refused; use --allocator system")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pair", action="store_true", help="two sequences for each label")
    parser.add_argument("--modes", default="eager,compile", help="eager, compile, or a mode of torch.compile")
    parser.add_argument(
        "--dropout", type=float, default=0.1, help="of attention weights, residuals and embeddings"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=2048, help="padded length")
    parser.add_argument("--lengths", help="file of real lengths, one a line")
    parser.add_argument("--pad", choices=("fixed", "longest"), default="fixed", help="with --lengths")
    parser.add_argument("--allocator", choices=("reuse", "system"), default="reuse")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1, help="steps before the timed ones")
    for name, value in dict(width=64, heads=2, hidden_width=128, layers=2, vocabulary=32, classes=10).items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    options = parser.parse_args()
    if options.reps < 1 or options.warm_up < 1:
        parser.error("--reps and --warm-up must be at least 1")
    return options


def main():
    options = parse()
    torch.set_num_threads(options.threads)
    if options.allocator == "reuse":
        keep_freed_memory()
    for mode in options.modes.split(","):
        line = measure(mode, options)
        line.update(
            dropout=options.dropout, batch=options.batch, length=options.length, threads=options.threads
        )
        line.update(padding="none" if options.lengths is None else options.pad, torch=torch.__version__)
        line["allocator"] = options.allocator
        line.update(device=options.device, vocabulary=options.vocabulary, pair=options.pair)
        if options.device == "cuda":
            # what the graphs' private pools hold is reserved, not allocated
            line["reserved_MiB"] = torch.cuda.max_memory_reserved() // 2**20
            line["device"] = torch.cuda.get_device_name()
        else:
            line["peak_MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
