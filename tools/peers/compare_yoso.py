"""Times YOSO's sampled attention on a GPU, and exact attention of both sides beside it, and writes the table.

    python tools/peers/compare_yoso.py run --build build/cuda --out docs/results/yoso_h100.json
    python tools/peers/compare_yoso.py table docs/results/yoso_h100.json docs/yoso-kernels.md [--check]

`run` needs PyTorch with CUDA. `table` needs nothing: it replaces what stands between the markers
<!-- yoso_h100 --> and <!-- end --> of a page, or with --check exits 1 where that is not what the result says.
"""

import json
import sys
from pathlib import Path

from compare_gpu import MECHANISMS, STEPS, our_step
from comparison import commit, main, output_of

NAMES = {"YOSO-32": "yoso:hashes=32", "YOSO-16": "yoso:hashes=16", "tern softmax": "softmax"}
EXACT = "cuDNN softmax"
# head width, heads, length, law of the inputs
CASES = [
    (64, 8, 1024, "random"),
    (64, 8, 4096, "random"),
    (64, 8, 16384, "random"),
    (64, 8, 4096, "mean"),
    (64, 8, 16384, "mean"),
    (64, 8, 4096, "equal-keys"),
    (64, 8, 16384, "equal-keys"),
    (32, 2, 1024, "random"),
    (32, 2, 2048, "random"),
    (32, 2, 4096, "random"),
    (32, 2, 8192, "random"),
]
TOKENS, MILLION = 65536, 1 << 20


def sizes(width, heads, lengths, tokens=TOKENS):
    lengths = ",".join(map(str, lengths))
    return ["--head-widths", width, "--heads", heads, "--tokens", tokens, "--lengths", lengths]


def run(options):
    ours = [f"{options.build}/tern", "bench", "attention", "--json", "--quiet", "--device", "cuda"]
    result = {"command": " ".join(["python"] + sys.argv), "commit": commit(), "rows": []}
    for width, heads, law in dict.fromkeys((width, heads, law) for width, heads, _, law in CASES):
        lengths = [case[2] for case in CASES if (case[0], case[1], case[3]) == (width, heads, law)]
        case = sizes(width, heads, lengths)
        command = ours + case + ["--input", law]
        for name, spec in NAMES.items():  # exact attention takes the same time for all data
            command += ["--variant", f"{name}={spec}"] if law == "random" or spec != "softmax" else []
        environment, *rows = output_of(command)
        result.setdefault("environment", environment["environment"])
        result["rows"] += rows
        if law == "random":
            peers = output_of([sys.executable, "tools/peers/attention.py", "--backends", "cudnn"] + case)
            result["rows"] += [{**row, "name": EXACT, "input": law} for row in peers]
    for bits in (16, 20):
        command = ours + sizes(64, 8, [MILLION], MILLION) + ["--repetitions", 3]
        result["rows"] += output_of(command + ["--variant", f"YOSO-32=yoso:hashes=32,bits={bits}"])[1:]
    result["text_step"] = {name: our_step(options.build, name, STEPS["Text"]) for name in MECHANISMS}
    Path(options.out).write_text(json.dumps(result, indent=1) + "\n")


def text(row):
    if row is None or row["forward_backward_ms"] is None:
        return ""
    return f"{row['forward_ms']:.2f} / {row['forward_backward_ms']:.2f} ({row['peak_mib']:,.0f})"


def table_of(result):
    columns = [*NAMES, EXACT]
    laws = {"random": "", "mean": ", common mean", "equal-keys": ", all keys equal"}
    lines = ["| case | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for case in CASES:
        rows = {
            row["name"]: row
            for row in result["rows"]
            if (row["head_width"], row["heads"], row["length"], row["input"]) == case
        }
        width, heads, length, law = case
        title = f"d = {width}, {heads} heads, n = {length:,}{laws[law]}"
        lines.append(f"| {title} | " + " | ".join(text(rows.get(name)) for name in columns) + " |")
    for row in result["rows"]:
        if row["length"] == MILLION:
            bits = row["settings"][-1].split("=")[1]
            lines.append(f"| d = 64, 8 heads, n = {MILLION:,}, {bits} bits | {text(row)} | | | |")
    steps = {name: row["median_ms"] for name, row in result["text_step"].items()}
    shape = "{} x {:,}".format(*STEPS["Text"])
    lines.append(f"| a training step of Text, {shape} | {steps['YOSO-32']:.2f} | | {steps['softmax']:.2f} | |")
    exact = next(row for row in result["rows"] if row["name"] == EXACT)
    lines += [
        "",
        f"{TOKENS:,} tokens unless n is larger; in parentheses peak MiB beyond the inputs. Medians, both sides "
        f"in one run. Device: {exact['gpu']}. {EXACT}: {exact['path']}. Commit {result['commit'][:12]}.",
    ]
    return "\n".join(lines)


def add_options(timed):
    timed.add_argument("--build", required=True)
    timed.add_argument("--out", required=True)


if __name__ == "__main__":
    main(__doc__, add_options, run, table_of)
