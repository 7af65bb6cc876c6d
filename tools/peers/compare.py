"""Times tern's training step and PyTorch's in one run, and writes the documentation's tables from the result.

    python tools/peers/compare.py run --program build/cpu/benchmark_train_step \\
        --records data/prepared/listops/train.records --out docs/results/train_step.json \\
        [--threads 2] [--processors 0,1]
    python tools/peers/compare.py table docs/results/train_step.json README.md [--check]

`run` needs PyTorch (requirements.txt). `table` needs nothing: it replaces what stands between the markers
<!-- train_step --> and <!-- end --> of a page, or with --check exits 1 where that is not what the result says.
"""

import json
import os
import platform
import sys
from pathlib import Path

from comparison import commit, main, output_of

CONFIG = "configs/lra/listops.yaml"
YOSO = ["--set", "model.attention.kind=yoso"]
CASES = {
    "softmax": [],
    "yoso gaussian": YOSO,
    "yoso interleaved": YOSO + ["--set", "model.attention.hash=interleaved"],
    "yoso hadamard": YOSO + ["--set", "model.attention.hash=hadamard"],
    "yoso expectation": YOSO + ["--set", "model.attention.form=expectation"],
    "none": ["--set", "model.attention.kind=none"],
}
REAL_LENGTH_CASES = ("softmax", "yoso gaussian")
MEMORY_LENGTHS = (4096, 8192, 16384, 32768, 65536)
TITLES = {
    "softmax": "tern, exact softmax",
    "yoso gaussian": "tern, YOSO-32, Gaussian hashing",
    "yoso interleaved": "tern, YOSO-32, interleaved Hadamard",
    "yoso hadamard": "tern, YOSO-32, Hadamard as published",
    "yoso expectation": "tern, YOSO-E (expectation)",
    "none": "tern, no attention",
    "eager": "PyTorch eager, fused exact attention",
    "compile": "torch.compile, fused exact attention",
}


def pinned(options):
    return ["taskset", "-c", options.processors] if options.processors else []


def run(options):
    threads = ["--set", f"run.threads={options.threads}"]
    ours = [options.program, CONFIG] + threads
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    rows, memory, peers = {}, [], []
    for name, settings in CASES.items():
        rows[name] = output_of(ours + settings, pinned(options))[0]
    for name in REAL_LENGTH_CASES:
        real = output_of(
            ours + CASES[name] + ["--records", options.records, "--repetitions", "20"], pinned(options)
        )
        rows[name + ", real lengths"] = real[0]
    one = ["--set", "training.batch_size=1", "--set", f"task.padded_length={MEMORY_LENGTHS[-1]}"]
    for length in MEMORY_LENGTHS:
        sizes = ["--length", str(length), "--repetitions", "1", "--warm-up", "0"]
        memory += output_of(ours + YOSO + one + sizes, pinned(options))
    for mode in ("eager", "compile"):
        peers += output_of(
            [sys.executable, "tools/peers/train_step.py", "--threads", str(options.threads), "--modes", mode]
            + ["--dropout", "0.1", "--batch", "32", "--length", "2048", "--reps", "5"],
            pinned(options),
        )
    processor = next(iter(rows.values()))["environment"]["processor"]
    result = {
        "command": " ".join(["python"] + sys.argv),
        "commit": commit(),
        "device": f"{processor}, {options.threads} threads, {platform.system()}",
        "rows": rows,
        "memory": memory,
        "peers": peers,
    }
    Path(options.out).write_text(json.dumps(result, indent=1) + "\n")


def table_of(result):
    peers = {row["mode"]: row["median_ms"] for row in result["peers"]}
    best = min(peers.values())
    lines = [
        "| a step of 32 sequences, float32, dropout 0.1 | n = 2,048, full | ListOps lengths (501-1,999) |",
        "|---|---|---|",
    ]

    def cell(milliseconds):
        return f"{milliseconds:,.0f} ms ({best / milliseconds:.1f}x)"

    for name in CASES:
        real = result["rows"].get(name + ", real lengths")
        full = cell(result["rows"][name]["median_ms"])
        lines.append(f"| {TITLES[name]} | {full} | {cell(real['median_ms']) if real else ''} |")
    for mode, milliseconds in peers.items():
        lines.append(f"| {TITLES[mode]} | {cell(milliseconds)} | the same: it pads |")
    version = result["peers"][0]["torch"]
    lines.append("")
    lines.append(
        f"Medians, both sides in one run, PyTorch {version}; in parentheses the speed relative to the faster "
        f"PyTorch mode. Device: {result['device']}. Commit {result['commit'][:12]}."
    )
    lines.append("")
    lines.append(
        "| YOSO-32, one sequence of | " + " | ".join(f"{row['length']:,}" for row in result["memory"]) + " |"
    )
    lines.append("|---|" + "---|" * len(result["memory"]))
    lines.append(
        "| peak memory of a step, MiB | "
        + " | ".join(f"{row['peak_tensor_mib']:.0f}" for row in result["memory"])
        + " |"
    )
    return "\n".join(lines)


def add_options(timed):
    timed.add_argument("--program", required=True)
    timed.add_argument("--records", required=True)
    timed.add_argument("--out", required=True)
    timed.add_argument("--threads", type=int, default=2)
    timed.add_argument("--processors", default="")


if __name__ == "__main__":
    main(__doc__, add_options, run, table_of)
