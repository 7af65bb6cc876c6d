"""Reads prepared splits; the format is described in src/data/record_file.h."""

import json

import numpy as np

MAGIC = b"ternrecs"
VERSION = 1
SECTION_ALIGNMENT = 64
FRONT_ALIGNMENT = 4096


def round_up(value, step):
    return -(-value // step) * step


class RecordFile:
    """header, labels [records] and the ids of each sequence, mapped into memory; checksums are not verified."""

    def __init__(self, path):
        raw = np.memmap(path, dtype=np.uint8, mode="r")
        version, length = (int(value) for value in raw[8:16].view("<u4"))
        if raw[:8].tobytes() != MAGIC or version != VERSION:
            raise ValueError(f"{path}: not a record file of version {VERSION}")
        self.header = json.loads(raw[16 : 16 + length].tobytes())
        records, tokens = self.header["records"], self.header["tokens"]
        self.sequences_per_record = self.header["sequences_per_record"]
        self.tokens, end = section(
            raw, round_up(16 + length, FRONT_ALIGNMENT), self.header["token_type"], tokens
        )
        label_type = "int32" if self.header["label_kind"] == "classes" else "float32"
        self.labels, end = section(raw, round_up(end, SECTION_ALIGNMENT), label_type, records)
        sequences = records * self.sequences_per_record
        self.offsets, _ = section(raw, round_up(end, SECTION_ALIGNMENT), "uint64", sequences + 1)
        if int(self.offsets[0]) != 0 or int(self.offsets[-1]) != tokens:
            raise ValueError(f"{path}: the offsets do not span the tokens")

    def sequence(self, record, which=0):
        index = record * self.sequences_per_record + which
        return self.tokens[int(self.offsets[index]) : int(self.offsets[index + 1])]


def section(raw, begin, type_name, count):
    kind = np.dtype(type_name).newbyteorder("<")
    end = begin + count * kind.itemsize
    if end > len(raw):
        raise ValueError("the file is shorter than its header says")
    return raw[begin:end].view(kind), end
