"""Times every attention mechanism of tern by length, and those that have a peer against it, in one run.

    python tools/peers/compare_mechanisms.py run --build build/cuda --out docs/results/mechanisms.json
        [--plot docs/results/mechanisms.svg] [--device cpu --threads 2] [--modes eager,compile]
    python tools/peers/compare_mechanisms.py table docs/results/mechanisms.json PAGE [--check]

`run` needs PyTorch and Hugging Face's transformers (requirements.txt). `table` needs nothing: it replaces what
stands between <!-- mechanisms -->, the name of the result, and <!-- end --> in a page, or with --check exits 1
where that is not what the result says. The peers and their settings are in mechanisms.py; tern gets the same.
"""

import json
import sys
from pathlib import Path

from comparison import commit, main, output_of


def settings_text(row):
    return f": {', '.join(row['settings'])}" if row["settings"] else ""


def run(options):
    from mechanisms import SETTINGS  # needs PyTorch

    sizes = ["--tokens", options.tokens, "--heads", options.heads, "--device", options.device]
    sizes += ["--threads", options.threads, "--seconds", options.seconds]
    ours = [f"{options.build}/tern", "bench", "attention", "--json", "--quiet"]
    ours += ["--head-widths", options.head_width] + sizes
    result = {"command": " ".join(["python"] + sys.argv), "commit": commit(), "length": options.length}
    out = Path(options.out)

    def save():  # what is there so far, should the machine go away
        out.write_text(json.dumps(result, indent=1) + "\n")

    kinds = options.kinds.split(",")
    variants = []
    for kind in kinds:
        told = ",".join(f"{key}={value}" for key, value in SETTINGS[kind].items())
        variants += ["--variant", f"{kind}={kind}" + (f":{told}" if told else "")]
    environment, *result["tern"] = output_of(ours + variants + ["--lengths", options.length])
    result["environment"] = environment["environment"]
    save()
    theirs = [sys.executable, "tools/peers/mechanisms.py", "--kinds", options.kinds, "--modes", options.modes]
    theirs += ["--lengths", options.length, "--head-width", options.head_width]
    result["peers"] = output_of(theirs + sizes)
    save()
    plot = ["--plot", options.plot] if options.plot else []
    result["all"] = output_of(ours + ["--kinds", "all", "--lengths", options.lengths] + plot)[1:]
    save()


def times_text(row):
    if row["forward_backward_ms"] is None:
        return row["error"] if "error" in row else "-"
    return f"{row['forward_ms']:.2f} / {row['forward_backward_ms']:.2f} ({row['peak_mib']:.0f})"


def peer_table(result):
    lines = [
        f"| n = {result['length']:,}: forward / with backward, ms (MiB) | tern | peer | time | memory |",
        "|---|---|---|---|---|",
    ]
    tern = {row["kind"]: row for row in result["tern"]}
    for theirs in result["peers"]:
        ours = tern[theirs["kind"]]
        ratios = ["", ""]
        if ours["forward_backward_ms"] is not None and theirs["forward_backward_ms"] is not None:
            compared = ["forward_backward_ms"] + (["peak_mib"] if "gpu" in theirs else [])
            ratios[: len(compared)] = [f"{theirs[key] / ours[key]:.2f}x" for key in compared]
        title = f"`{ours['kind']}`{settings_text(ours)}"
        cells = [title, times_text(ours), f"{theirs['name']}: {times_text(theirs)}"] + ratios
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def length_table(result):
    lengths = list(dict.fromkeys(row["length"] for row in result["all"]))
    lines = [
        "| with backward, ms (MiB) | " + " | ".join(f"n = {length:,}" for length in lengths) + " |",
        "|---" * (len(lengths) + 1) + "|",
    ]
    for name in dict.fromkeys(row["name"] for row in result["all"]):
        rows = {row["length"]: row for row in result["all"] if row["name"] == name}
        cells = [
            (
                "-"
                if row["forward_backward_ms"] is None
                else f"{row['forward_backward_ms']:.2f} ({row['peak_mib']:.0f})"
            )
            for row in (rows[length] for length in lengths)
        ]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return lines


def table_of(result):
    row = result["tern"][0]
    environment = result["environment"]
    gpu = next((peer["gpu"] for peer in result["peers"] if "gpu" in peer), None)
    compared = "Time and memory: the peer's over tern's, with backward. Peers run eager where nothing is said."
    if not gpu:
        compared += " Memory of tern is that of tensors, of peers what the process grows by: not compared."
    dtypes = f"{row['dtype']} (peers: {result['peers'][0]['dtype']})"
    heads = "one head" if row["heads"] == 1 else f"{row['heads']} heads"
    lines = peer_table(result)
    lines += [
        "",
        compared,
        "",
        *length_table(result),
        "",
        f"{row['tokens']:,} tokens, {heads} of width {row['head_width']}, {dtypes}; medians, both "
        f"sides in one run. Device: {gpu or environment['processor']}. "
        f"Peers: {result['peers'][0]['path'].split(', ')[0]}. Commit {result['commit'][:12]}.",
    ]
    return "\n".join(lines)


def add_options(timed):
    timed.add_argument("--build", required=True)
    timed.add_argument("--out", required=True)
    timed.add_argument("--plot", default="", help="SVG file of time against the length")
    timed.add_argument("--kinds", default="nystrom,longformer,reformer,linformer,performer,linear")
    timed.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    timed.add_argument("--threads", type=int, default=2, help="on the CPU")
    timed.add_argument("--length", type=int, default=4096, help="where both sides are compared")
    timed.add_argument("--lengths", default="512,1024,2048,4096,8192,16384,32768,65536")
    timed.add_argument("--tokens", type=int, default=65536)
    timed.add_argument("--heads", type=int, default=8)
    timed.add_argument("--head-width", type=int, default=64)
    timed.add_argument("--seconds", type=float, default=10, help="of the calls of a case")
    timed.add_argument("--modes", default="eager,compile", help="of the peers: eager, compile, reduce-overhead")


if __name__ == "__main__":
    main(__doc__, add_options, run, table_of)
