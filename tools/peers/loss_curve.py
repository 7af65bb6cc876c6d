"""Trains the padded-and-masked PyTorch model on a run's own batches and compares the losses.

    python tools/peers/loss_curve.py --run RUN_DIR --data train.records [--steps 200] [--device cuda]

The run must have dropout 0, no clipping and an attention without random numbers (none, softmax, yoso with
form: expectation), and be logged with training.log_every=1 and training.log_samples=true. The run folder gives
the weights before the first step, the configuration, and each step's loss, records, learning rate and beta1.
Prints one JSON line with both curves and the largest difference; exits 1 if that exceeds --tolerance.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from oracle.model import MODEL_KEYS, Classifier, ModelConfig
from oracle.record_file import RecordFile


def setting(config, key):
    value = config
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise SystemExit(f"config.resolved.yaml: {key} is missing")
        value = value[part]
    return value


def attention_options(config, padded_length):
    kind = setting(config, "model.attention.kind")
    if kind != "yoso":
        return {"attention": kind}
    if setting(config, "model.attention.form") != "expectation":
        raise SystemExit("the sampled form has no PyTorch counterpart; set model.attention.form=expectation")
    options = {key: setting(config, f"model.attention.{key}") for key in ("bits", "gradient", "conv_window")}
    if options["bits"] == 0:
        options["bits"] = min(16, math.ceil(math.log2(padded_length)))
    return {"attention": kind, **options}


def model_config(config, header):
    for key in ("model.dropout", "optimizer.clip_norm"):
        if float(setting(config, key)) != 0:
            raise SystemExit(f"the curves can only be compared with {key}: 0")
    padded_length = setting(config, "task.padded_length")
    return ModelConfig(
        vocabulary=setting(config, "task.vocabulary"),
        padded_length=padded_length,
        classes=header["classes"],
        pair=header["sequences_per_record"] == 2,
        **{key: setting(config, f"model.{key}") for key in MODEL_KEYS},
        **attention_options(config, padded_length),
    )


def padded_tokens(file, records, cut, length):
    """[sequences, length]: all first sequences, then all second ones, each cut to its first `cut` ids."""
    pairs = [(record, which) for which in range(file.sequences_per_record) for record in records]
    out = np.zeros((len(pairs), length), dtype=np.int64)
    for row, (record, which) in enumerate(pairs):
        ids = file.sequence(record, which)[:cut]
        out[row, : len(ids)] = ids
    return torch.from_numpy(out)


def train_rows(path, steps):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row for row in rows if row.get("kind") == "train"][:steps]
    if not rows or [row["step"] for row in rows] != list(range(1, len(rows) + 1)):
        raise SystemExit(f"{path}: needs a row for every step from the first; set training.log_every=1")
    if any("samples" not in row for row in rows):
        raise SystemExit(f"{path}: the rows name no samples; set training.log_samples=true")
    return rows


def decay_groups(model, weight_decay):
    """Biases and norms, which have one axis, do not decay."""
    parameters = list(model.parameters())
    return [
        {"params": [x for x in parameters if x.dim() >= 2], "weight_decay": weight_decay},
        {"params": [x for x in parameters if x.dim() < 2], "weight_decay": 0.0},
    ]


class Peer:
    def __init__(self, arguments):
        config = yaml.safe_load((arguments.run / "config.resolved.yaml").read_text())
        self.arguments = arguments
        self.file = RecordFile(arguments.data)
        self.model = Classifier(model_config(config, self.file.header)).to(arguments.device)
        self.model.load_state_dict(load_file(arguments.run / "initial.safetensors", device=arguments.device))
        self.optimizer = torch.optim.AdamW(
            decay_groups(self.model, float(setting(config, "optimizer.weight_decay"))),
            eps=float(setting(config, "optimizer.epsilon")),
        )
        self.cut = setting(config, "task.max_length")
        self.beta2 = float(setting(config, "optimizer.beta2"))

    def step(self, row):
        """Mean loss of the row's batch before the update; passes over parts of the batch bound the memory."""
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = row["learning_rate"], (row["beta1"], self.beta2)
        self.optimizer.zero_grad()
        records, part = self.records(row["samples"]), self.arguments.part
        total = 0.0
        for begin in range(0, len(records), part):
            loss = self.loss_sum(records[begin : begin + part]) / len(records)
            loss.backward()
            total += loss.item()
        self.optimizer.step()
        return total

    def records(self, samples):
        """A sample of a pair task is 2 * record + which."""
        if self.file.sequences_per_record == 1:
            return samples
        return [sample // 2 for sample in samples if sample % 2 == 0]

    def loss_sum(self, records):
        device = self.arguments.device
        tokens = padded_tokens(self.file, records, self.cut, self.model.config.padded_length).to(device)
        labels = torch.tensor([int(self.file.labels[record]) for record in records], device=device)
        return F.cross_entropy(self.model(tokens)[2], labels, reduction="sum")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="run folder")
    parser.add_argument("--data", type=Path, required=True, help="record file of the training split")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--part", type=int, default=4, help="records of one forward and backward pass")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    return parser.parse_args()


def main():
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    peer = Peer(arguments)
    rows = train_rows(arguments.run / "metrics.jsonl", arguments.steps)
    theirs = []
    for row in rows:
        theirs.append(peer.step(row))
        print(f"step {row['step']}: {row['loss']:.6f} and {theirs[-1]:.6f} here", file=sys.stderr, flush=True)
    ours = [row["loss"] for row in rows]
    largest = float(np.max(np.abs(np.subtract(ours, theirs))))
    result = {
        "steps": len(rows),
        "max_difference": largest,
        "run": ours,
        "torch": theirs,
        "version": torch.__version__,
    }
    print(json.dumps(result))
    return 0 if largest <= arguments.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
