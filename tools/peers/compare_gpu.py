"""Times tern's training steps and attention kernels on a GPU and PyTorch's in one run, and writes the tables.

    python tools/peers/compare_gpu.py run --build build/cuda --out docs/results/gpu.json
        [--listops data/prepared/listops/train.records] [--imdb-lengths FILE]
    python tools/peers/compare_gpu.py table docs/results/gpu.json docs/gpu.md [--check]

`run` needs PyTorch with CUDA and a build with -DTERN_BENCHMARKS=ON. `table` needs nothing: it replaces what
stands between the markers <!-- gpu --> and <!-- end --> of a page, or with --check exits 1 where that is not
what the result says. The shapes are those of the Long Range Arena; the ids are random unless a file of records
is named.
"""

import json
import sys
from pathlib import Path

from comparison import commit, main, output_of

CONFIG = "configs/lra/listops.yaml"
# title: (batch, length, vocabulary, classes, pair)
STEPS = {
    "ListOps": (32, 2048, 32, 10, False),
    "Text": (32, 4096, 512, 2, False),
    "Image": (256, 1024, 512, 10, False),
    "Retrieval": (32, 4096, 512, 2, True),
}
MECHANISMS = {
    "softmax": ["--set", "model.attention.kind=softmax"],
    "YOSO-32": ["--set", "model.attention.kind=yoso"],
}
# width, heads, tokens, length, dropout
ATTENTION = [
    (32, 4, 65536, 4096, 0),
    (64, 8, 65536, 4096, 0),
    (32, 2, 65536, 2048, 0.1),
    (64, 8, 65536, 4096, 0.1),
    (128, 4, 65536, 4096, 0),
]


def our_step(build, mechanism, shape, extra=("--repetitions", 50, "--warm-up", 10)):
    batch, length, vocabulary, classes, pair = shape
    settings = {
        "training.batch_size": batch,
        "task.padded_length": length,
        "task.max_length": length,
        "task.vocabulary": vocabulary,
        "run.device": "cuda",
    }
    command = [f"{build}/benchmark_train_step", CONFIG, "--length", length, "--outputs", classes]
    command += (["--pair"] if pair else []) + MECHANISMS[mechanism]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    return output_of(command + list(extra))[0]


def peer_step(shape):
    batch, length, vocabulary, classes, pair = shape
    command = [sys.executable, "tools/peers/train_step.py", "--device", "cuda", "--modes", "reduce-overhead"]
    command += ["--dropout", 0.1, "--batch", batch, "--length", length, "--vocabulary", vocabulary]
    command += ["--classes", classes, "--reps", 30, "--warm-up", 6] + (["--pair"] if pair else [])
    return output_of(command)[0]


def attention(build, case):
    width, heads, tokens, length, dropout = case
    sizes = ["--head-widths", width, "--heads", heads, "--tokens", tokens, "--lengths", length]
    sizes += ["--dropout", dropout]
    ours = [f"{build}/tern", "bench", "attention", "--json", "--quiet", "--device", "cuda"]
    variants = ["--variant", "tern=softmax"]
    if dropout == 0:
        variants += ["--variant", "YOSO-E=yoso:form=expectation", "--variant", "YOSO-32=yoso:hashes=32"]
    environment, *lines = output_of(ours + variants + sizes)
    rows = {"case": case, "environment": environment["environment"]}
    lines += output_of([sys.executable, "tools/peers/attention.py"] + sizes)
    rows.update({line["name"]: line for line in lines})
    if dropout == 0:
        fixed = ["--deterministic", "--variant", "tern=softmax"]
        rows["tern, deterministic"] = output_of(ours + fixed + sizes)[1]
    return rows


def run(options):
    result = {"command": " ".join(["python"] + sys.argv), "commit": commit(), "steps": {}, "peers": {}}
    out = Path(options.out)

    def save():  # what is there so far, should the machine go away
        out.write_text(json.dumps(result, indent=1) + "\n")

    for title, shape in STEPS.items():
        result["steps"][title] = {name: our_step(options.build, name, shape) for name in MECHANISMS}
        result["peers"][title] = peer_step(shape)
        result["device"] = result["peers"][title]["device"]
        save()
    lengths = {"ListOps, real lengths": ["--records", options.listops] if options.listops else []}
    lengths["Text, IMDb's lengths"] = ["--lengths", options.imdb_lengths] if options.imdb_lengths else []
    for title, real in lengths.items():
        if real:
            shape = STEPS[title.split(",")[0]]
            real = real + ["--repetitions", 200, "--warm-up", 100]
            result["steps"][title] = {name: our_step(options.build, name, shape, real) for name in MECHANISMS}
            save()
    result["deterministic"] = our_step(
        options.build, "softmax", STEPS["ListOps"], ["--set", "run.deterministic=true", "--repetitions", 50]
    )
    result["attention"] = []
    for case in ATTENTION:
        result["attention"].append(attention(options.build, case))
        save()


def step_table(result):
    lines = [
        "| a training step, bfloat16, dropout 0.1 | PyTorch, ms | tern softmax | tern YOSO-32 |",
        "|---|---|---|---|",
    ]
    for title, rows in result["steps"].items():
        base = title.split(",")[0]
        batch, length, _, _, pair = STEPS[base]
        peer = result["peers"][base]["median_ms"]
        size = f"{batch} x {'2 x ' if pair else ''}{length:,}"
        theirs = f"{peer:.2f}" if title == base else "the same: it pads"
        ours = [
            f"{row['median_ms']:.2f} ({row['peak_device_mib']:.0f}), {peer / row['median_ms']:.2f}x"
            for row in (rows[name] for name in MECHANISMS)
        ]
        lines.append(f"| {title}, {size} | {theirs} | " + " | ".join(ours) + " |")
    lines += [
        "",
        "PyTorch: torch.compile with CUDA graphs, fused exact attention. In parentheses peak MiB of the GPU.",
    ]
    if "deterministic" in result:
        fixed = result["deterministic"]["median_ms"]
        free = result["steps"]["ListOps"]["softmax"]["median_ms"]
        lines += [f"`run.deterministic: true` makes the ListOps step {fixed:.2f} ms: {fixed / free:.2f} times."]
    return lines


def times_text(row):
    if row is None or row["forward_backward_ms"] is None:
        return ""
    return f"{row['forward_ms']:.2f} / {row['forward_backward_ms']:.2f}"


def attention_table(result):
    columns = ["cudnn", "flash", "tern", "tern, deterministic", "YOSO-E", "YOSO-32"]
    titles = ["cuDNN", "FlashAttention-2", "tern softmax", "deterministic", "tern YOSO-E", "tern YOSO-32"]
    lines = [
        "| attention alone, forward / forward + backward, ms | " + " | ".join(titles) + " |",
        "|---" * (len(titles) + 1) + "|",
    ]
    for rows in result["attention"]:
        width, heads, tokens, length, dropout = rows["case"]
        cells = [times_text(rows.get(column)) for column in columns]
        title = f"d = {width}, {heads * tokens // length} heads, n = {length:,}, dropout {dropout}"
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def table_of(result):
    lines = step_table(result)
    if result.get("attention"):
        lines += [""] + attention_table(result)
    lines += [
        "",
        f"Medians, both sides in one run. Device: {result['device']}. Commit {result['commit'][:12]}.",
    ]
    return "\n".join(lines)


def add_options(timed):
    timed.add_argument("--build", required=True)
    timed.add_argument("--out", required=True)
    timed.add_argument("--listops", default="", help="records of the real task")
    timed.add_argument("--imdb-lengths", default="", help="bytes of each review, one a line")


if __name__ == "__main__":
    main(__doc__, add_options, run, table_of)
