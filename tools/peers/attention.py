"""Times PyTorch's fused exact attention at the sizes of `tern bench attention`, and prints JSON lines like it.

python tools/peers/attention.py [--head-widths 64] [--heads 8] [--tokens 65536] [--lengths 4096] [--dropout 0]
                                [--backends cudnn,flash] [--repetitions 20]
"""

import argparse
import json

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def median_ms(repetitions, body):
    times = []
    for i in range(repetitions + 5):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        body()
        end.record()
        end.synchronize()
        if i >= 5:
            times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def run(options, backend, width, length):
    shape = (max(options.tokens // length, 1), options.heads, length, width)
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    dy = torch.randn(shape, device="cuda", dtype=torch.bfloat16)

    def attend():
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=options.dropout)

    def both():
        torch.autograd.grad(attend(), (q, k, v), dy)

    with sdpa_kernel(BACKENDS[backend]):
        with torch.no_grad():
            forward = median_ms(options.repetitions, attend)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward_backward = median_ms(options.repetitions, both)
    print(
        json.dumps(
            {
                "name": backend,
                "kind": "softmax",
                "length": length,
                "head_width": width,
                "heads": options.heads,
                "tokens": shape[0] * length,
                "dtype": "bfloat16",
                "device": "cuda",
                "dropout": options.dropout,
                "forward_ms": forward,
                "forward_backward_ms": forward_backward,
                "peak_mib": (torch.cuda.max_memory_allocated() - before) / 2**20,
                "repetitions": options.repetitions,
                "path": f"torch {torch.__version__}, {backend}",
                "gpu": torch.cuda.get_device_name(),
            }
        ),
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--head-widths", default="64")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--lengths", default="1024,2048,4096,8192")
    parser.add_argument("--dropout", type=float, default=0)
    parser.add_argument("--backends", default="cudnn,flash")
    parser.add_argument("--repetitions", type=int, default=20)
    options = parser.parse_args()
    for backend in options.backends.split(","):
        for width in map(int, options.head_widths.split(",")):
            for length in map(int, options.lengths.split(",")):
                run(options, backend, width, length)


if __name__ == "__main__":
    main()
