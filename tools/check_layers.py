#!/usr/bin/env python3
"""Fails where a file includes a layer to its right, or an outside library that another layer owns.

    base -> io -> config -> core -> kernels -> ops -> nn -> attention -> optim, comm, data -> tasks -> training
         -> report -> app

Layers of one rank do not include each other; kernels see base and kernels only. A public header belongs to the
layer that HEADERS names: a new one is added there.
"""

import re
import sys
from pathlib import Path

ORDER = [
    ["base"], ["io"], ["config"], ["core"], ["kernels"], ["ops"], ["nn"], ["attention"],
    ["optim", "comm", "data"], ["tasks"], ["training"], ["report"], ["app"],
]  # fmt: skip
RANK = {layer: rank for rank, layers in enumerate(ORDER) for layer in layers}
HEADERS = {
    "base": "attention_pattern bernoulli build_info device error logging random sorted_blocks step_state",
    "config": "config config_slot",
    "core": "autograd memory sequence_layout tensor",
    "ops": "cluster_attention ops sorted_attention",
    "nn": "attention encoder layers module",
    "optim": "optimizer",
    "comm": "communicator",
    "tasks": "task",
    "training": "checkpoint experiment objective trainer",
}
LAYER_OF_HEADER = {name: layer for layer, names in HEADERS.items() for name in names.split()}
OWNERS = {
    "yaml-cpp/": {"config"},
    "spdlog/": {"base"},
    "CLI/": {"app"},
    "nlohmann/": {"io"},
    "archive": {"io"},
    "png.h": {"io"},
    "zlib.h": {"io"},
    "xxhash.h": {"base", "io"},
    "omp.h": {"base"},
    "cblas.h": {"base"},
    "gtest/": set(),
    "cuda": {"base", "kernels", "comm"},
    "cublas": {"base", "kernels"},
    "cub/": {"kernels"},
    "nvtx": {"base"},
    "nccl": {"comm"},
    "mpi.h": {"comm"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def layer_of(path):
    """Layer of a file given as src/<layer>/... or include/tern/<name>.h; None if it has none."""
    parts = Path(path).parts
    if parts[0] == "include":
        return LAYER_OF_HEADER.get(Path(parts[-1]).stem)
    return parts[1] if parts[1] in RANK else None


def layer_of_include(name):
    if name.startswith("tern/"):
        return LAYER_OF_HEADER.get(Path(name).stem)
    return name.split("/")[0] if name.split("/")[0] in RANK else None


def is_allowed(layer, other):
    if layer == other:
        return True
    if layer == "kernels":
        return other == "base"
    return RANK[other] < RANK[layer]


def violations_of(path, text):
    """Messages for one file; `path` is relative to the project."""
    layer = layer_of(path)
    if layer is None:
        return [f"{path}:1: belongs to no layer; add its folder or header to tools/check_layers.py"]
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        quote, name = match.groups()
        where = f"{path}:{number}: "
        if quote == "<":
            for library, owners in OWNERS.items():
                if name.startswith(library) and layer not in owners:
                    allowed = ", ".join(sorted(owners)) or "tests"
                    found.append(f"{where}<{name}> may be included by {allowed} only")
            continue
        other = layer_of_include(name)
        if other is None:
            found.append(f'{where}"{name}" belongs to no layer; write "tern/x.h" or "<layer>/x.h"')
        elif not is_allowed(layer, other):
            found.append(f'{where}{layer} may not include "{name}" of {other}')
    return found


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    files = [
        p
        for folder in ("src", "include")
        for p in sorted((root / folder).rglob("*"))
        if p.suffix in {".h", ".cpp", ".cu", ".cuh"}
    ]
    if not files:
        print(f"no sources below {root}")
        return 1
    found = [line for p in files for line in violations_of(p.relative_to(root).as_posix(), p.read_text())]
    print("\n".join(found) if found else f"{len(files)} files keep the order of the layers")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
