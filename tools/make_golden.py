"""Writes tests/golden/*.safetensors with PyTorch in float64; see tools/requirements.txt.

    python tools/make_golden.py                 writes every file
    python tools/make_golden.py --check         makes them again and compares with those on disk

A file holds its seed, configuration, definitions and the version of PyTorch in its metadata.
"""

import argparse
import sys
from pathlib import Path

import torch

from oracle.golden_encoder import encoder_files
from oracle.golden_functions import functions_file, softmax_attention_file, yoso_expectation_file
from oracle.golden_routing import routing_file
from oracle.golden_sea import sea_file
from oracle.golden_training import adamw_file, loss_curve_file, schedules_file

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden"


def all_files():
    single = (
        functions_file,
        softmax_attention_file,
        yoso_expectation_file,
        routing_file,
        sea_file,
        adamw_file,
        schedules_file,
        loss_curve_file,
    )
    return encoder_files() + [make() for make in single] + peer_files()


def peer_files():
    """What other projects' modules compute; their package is needed for these files alone."""
    try:
        from oracle.golden_huggingface import huggingface_files
    except ModuleNotFoundError as missing:
        print(f"left out: the files of Hugging Face's modules, {missing}", file=sys.stderr)
        return []
    return huggingface_files()


def main():
    parser = argparse.ArgumentParser(description="Golden files from PyTorch in float64.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the files")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--tolerance", type=float, default=1e-11, help="of --check, of the largest entry")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = all_files()
    if arguments.check:
        lines = [line for file in files for line in file.differences(arguments.out, arguments.tolerance)]
        print("\n".join(lines) if lines else f"{len(files)} files agree")
        return 1 if lines else 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    for file in files:
        file.write(arguments.out)
    print(f"wrote {len(files)} files to {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
