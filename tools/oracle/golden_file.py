"""Golden files: safetensors with the seed, the versions and the configuration in the metadata."""

import json
import math
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

COMMAND = "python tools/make_golden.py"


class GoldenFile:
    """Tensors and metadata of one file. Floating values are float64, integers int32."""

    def __init__(self, name, seed, config, notes=""):
        self.name = name
        self.generator = torch.Generator().manual_seed(seed)
        self.metadata = {
            "command": COMMAND,
            "config": json.dumps(config, sort_keys=True),
            "seed": str(seed),
            "torch": torch.__version__,
        }
        if notes:
            self.metadata["notes"] = notes
        self.tensors = {}

    def normal(self, *shape, scale=1.0, shift=0.0):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64) * scale + shift

    def integers(self, low, high, *shape):
        return torch.randint(low, high, shape, generator=self.generator)

    def add(self, prefix="", **tensors):
        for name, value in tensors.items():
            self.put(prefix + name, value)

    def put(self, name, value):
        if name in self.tensors:
            raise ValueError(f"{self.name}: {name} is given twice")
        value = torch.as_tensor(value).detach()
        value = value.to(torch.float64 if value.is_floating_point() else torch.int32)
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{self.name}: {name} is not finite")
        self.tensors[name] = value.reshape(value.shape or (1,)).clone().contiguous()

    def write(self, folder):
        (Path(folder) / f"{self.name}.safetensors").write_bytes(in_name_order(self.tensors, self.metadata))

    def differences(self, folder, tolerance):
        """Lines that say where the file on disk differs: relative to the largest entry of each tensor."""
        path = Path(folder) / f"{self.name}.safetensors"
        if not path.exists():
            return [f"{path.name}: missing"]
        lines = []
        with safe_open(path, "pt") as stored:
            if set(stored.keys()) != set(self.tensors):
                return [f"{path.name}: other names: {sorted(set(stored.keys()) ^ set(self.tensors))}"]
            for name, value in self.tensors.items():
                lines += compare(f"{path.name}: {name}", stored.get_tensor(name), value, tolerance)
        return lines


def in_name_order(tensors, metadata):
    """The bytes of a safetensors file, the same on every run: the library's metadata has a random order."""
    raw = save(tensors, metadata)
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    ordered = {"__metadata__": dict(sorted(header.pop("__metadata__").items()))}
    ordered.update(sorted(header.items(), key=lambda item: item[1]["data_offsets"]))
    text = json.dumps(ordered, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + raw[8 + length :]


def compare(where, stored, value, tolerance):
    if stored.shape != value.shape or stored.dtype != value.dtype:
        return [
            f"{where}: {stored.dtype} {list(stored.shape)} is stored, {value.dtype} {list(value.shape)} is made"
        ]
    difference = (stored - value).abs().max().item()
    scale = max(stored.abs().max().item(), math.ulp(0.0))
    return (
        []
        if difference <= tolerance * scale
        else [f"{where}: differs by {difference:.3g} at a scale of {scale:.3g}"]
    )
