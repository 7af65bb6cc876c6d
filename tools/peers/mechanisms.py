"""Times attention modules of other projects, and plain PyTorch ones, at the sizes of `tern bench attention`.

    python tools/peers/mechanisms.py [--kinds nystrom,longformer,reformer,linformer,performer,linear]
        [--lengths 4096] [--tokens 65536] [--heads 8] [--head-width 64] [--device cuda] [--modes eager,compile]

Nystromformer, Longformer and Reformer are the self-attention modules of Hugging Face's transformers without
their projections: queries, keys and values are given, as to `tern bench attention`, in the layout that the
module likes best. Linformer, Performer and the Linear Transformer are written here in PyTorch's own
operations. All sequences of a case have the same length and no padding. On CUDA the modules run under
bfloat16 autocast, on the CPU in float32. Prints one JSON line for each case and mode with the keys of `tern
bench attention --json`; a case that fails has "error". Peak memory is what PyTorch allocates beyond inputs
and gradients on CUDA, and what the process grows by on the CPU.
"""

import argparse
import ctypes
import json
import math
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

# what tern's mechanism of that name is told to make both sides do the same work
SETTINGS = {
    "nystrom": {"landmarks": 64, "conv_window": 33},
    "longformer": {"window": 512, "global_tokens": 1},
    "reformer": {"rounds": 2, "block": 64},
    "linformer": {"projected_length": 256},
    "performer": {"features": 256},
    "linear": {},
}


class Given(nn.Module):
    """Rows [batch, length, columns] in the place of a projection of the module's input."""

    def __init__(self, rows=lambda x: x):
        super().__init__()
        self.rows, self.value = rows, None

    def forward(self, _):
        return self.rows(self.value)


class HuggingFace(nn.Module):
    """A self-attention module of transformers for q, k, v [batch, length, heads * width]. `projections` names
    what it makes of each and, where that is not the rows as they are, how."""

    has_heads_first = False

    def __init__(self, module, projections, **arguments):
        super().__init__()
        self.module, self.arguments, self.given = module, arguments, []
        for which, name, *rows in projections:
            setattr(module, name, Given(*rows))
            self.given.append((which, name))

    def forward(self, q, k, v):
        for which, name in self.given:
            getattr(self.module, name).value = {"q": q, "k": k, "v": v}[which]
        return self.module(v, **self.arguments)[0]


def nystrom(options, length):
    from transformers.models.nystromformer import modeling_nystromformer as source

    settings = SETTINGS["nystrom"]
    config = source.NystromformerConfig(
        hidden_size=options.heads * options.head_width,
        num_attention_heads=options.heads,
        num_landmarks=settings["landmarks"],
        segment_means_seq_len=length,
        conv_kernel_size=settings["conv_window"],
        attention_probs_dropout_prob=0.0,
    )
    module = source.NystromformerSelfAttention(config)
    module.init_option = "exact"  # as tern's default: a start for each matrix
    return HuggingFace(module, [("q", "query"), ("k", "key"), ("v", "value")])


def longformer(options, length):
    from transformers.models.longformer import modeling_longformer as source

    settings = SETTINGS["longformer"]
    config = source.LongformerConfig(
        hidden_size=options.heads * options.head_width,
        num_attention_heads=options.heads,
        attention_window=[settings["window"]],
        attention_probs_dropout_prob=0.0,
    )
    count = settings["global_tokens"]
    is_global = torch.zeros(max(options.tokens // length, 1), length, dtype=torch.bool, device=options.device)
    is_global[:, :count] = True

    def tokens_first(x):
        return x.transpose(0, 1)

    return HuggingFace(
        source.LongformerSelfAttention(config, layer_id=0),
        [
            ("q", "query", lambda x: tokens_first(x).clone()),  # which the module scales in place
            ("k", "key", tokens_first),
            ("v", "value", tokens_first),
            ("q", "query_global", lambda x: tokens_first(x[:, :count]).clone()),
            ("k", "key_global", tokens_first),
            ("v", "value_global", tokens_first),
        ],
        attention_mask=is_global * 10000.0,
        is_index_masked=torch.zeros_like(is_global),
        is_index_global_attn=is_global,
        is_global_attn=count > 0,
    )


def reformer(options, length):
    from transformers.models.reformer import modeling_reformer as source

    settings = SETTINGS["reformer"]
    config = source.ReformerConfig(
        hidden_size=options.heads * options.head_width,
        num_attention_heads=options.heads,
        attention_head_size=options.head_width,
        num_hashes=settings["rounds"],
        lsh_attn_chunk_length=settings["block"],
        num_buckets=2 * max(length // settings["block"], 1),
        max_position_embeddings=length,
        lsh_attention_probs_dropout_prob=0.0,
        is_decoder=False,
    )
    return HuggingFace(source.LSHSelfAttention(config), [("q", "query_key"), ("v", "value")])


class Linformer(nn.Module):
    """Wang et al. 2020, arXiv 2006.04768, equation 7; projections shared by the heads."""

    has_heads_first = True

    def __init__(self, options, length):
        super().__init__()
        count = SETTINGS["linformer"]["projected_length"]
        self.key, self.value = (nn.Parameter(0.02 * torch.randn(length, count)) for _ in range(2))

    def forward(self, q, k, v):
        keys = torch.einsum("bhnd,nr->bhrd", k, self.key) / math.sqrt(q.shape[-1])
        values = torch.einsum("bhnd,nr->bhrd", v, self.value)
        return torch.softmax(q @ keys.transpose(-1, -2), dim=-1) @ values


class FeatureAttention(nn.Module):
    """Attention whose weights are products of features (Katharopoulos et al. 2020, equation 5)."""

    has_heads_first = True

    def forward(self, q, k, v):
        q, k = self.features(q, is_query=True), self.features(k, is_query=False)
        sums = q @ (k.transpose(-1, -2) @ v)
        return sums / (q @ k.sum(dim=-2).unsqueeze(-1) + 1e-6)


class LinearTransformer(FeatureAttention):
    def __init__(self, options, length):
        super().__init__()

    def features(self, x, is_query):
        return F.elu(x) + 1


class Performer(FeatureAttention):
    """Positive orthogonal random features (Choromanski et al. 2021, arXiv 2009.14794), drawn once."""

    def __init__(self, options, length):
        super().__init__()
        count, width = SETTINGS["performer"]["features"], options.head_width
        blocks = [torch.linalg.qr(torch.randn(width, width))[0].T for _ in range(math.ceil(count / width))]
        lengths = torch.randn(count, width).norm(dim=1, keepdim=True)
        self.register_buffer("directions", lengths * torch.cat(blocks)[:count])

    def features(self, x, is_query):
        x = x * x.shape[-1] ** -0.25
        exponent = x @ self.directions.T - x.square().sum(dim=-1, keepdim=True) / 2
        shift = exponent.detach().amax(dim=-1 if is_query else (-2, -1), keepdim=True)
        return torch.exp(exponent - shift) + 1e-6


KINDS = {
    "nystrom": ("Hugging Face's Nystromformer", nystrom),
    "longformer": ("Hugging Face's Longformer", longformer),
    "reformer": ("Hugging Face's Reformer", reformer),
    "linformer": ("Linformer in PyTorch", Linformer),
    "performer": ("Performer in PyTorch", Performer),
    "linear": ("Linear Transformer in PyTorch", LinearTransformer),
}


class HostMeter:
    """Wall clock; memory by the kernel's count of resident pages."""

    @staticmethod
    def milliseconds(body):
        start = time.perf_counter()
        body()
        return (time.perf_counter() - start) * 1e3

    @staticmethod
    def resident(field):
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(field + ":")) / 1024

    def peak_mib(self, body):
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls left is not this one's
        with open("/proc/self/clear_refs", "w") as control:
            control.write("5")  # the peak becomes what is resident now
        before = self.resident("VmRSS")
        body()
        return self.resident("VmHWM") - before


class DeviceMeter:
    @staticmethod
    def milliseconds(body):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        body()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    @staticmethod
    def peak_mib(body):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        body()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20


def timed(meter, options, body):
    """Median over the calls after the warm-up, which also compiles; none begins after the time is up."""
    for _ in range(options.warm_up):
        body()
    times, end = [], time.monotonic() + options.seconds
    while not times or (len(times) < options.repetitions and time.monotonic() < end):
        times.append(meter.milliseconds(body))
    return statistics.median(times), len(times)


def measure(options, kind, mode, length, row):
    torch.manual_seed(1)
    torch.compiler.reset()
    module = KINDS[kind][1](options, length).to(options.device).train()
    batch, heads, width = max(options.tokens // length, 1), options.heads, options.head_width
    shape = (batch, heads, length, width) if module.has_heads_first else (batch, length, heads * width)
    is_cuda = options.device == "cuda"
    kwargs = {"device": options.device, "dtype": torch.bfloat16 if is_cuda else torch.float32}
    q, k, v = (torch.randn(shape, **kwargs, requires_grad=True) for _ in range(3))
    inputs = [q, k, v] + [x for x in module.parameters() if x.requires_grad]
    forward = module if mode == "eager" else torch.compile(module, mode=None if mode == "compile" else mode)
    meter = DeviceMeter() if is_cuda else HostMeter()

    def attend():
        with torch.autocast(options.device, dtype=torch.bfloat16, enabled=is_cuda):
            return forward(q, k, v)

    with torch.no_grad():
        dy = torch.randn_like(attend())
        row["forward_ms"], _ = timed(meter, options, attend)

    def both():
        torch.autograd.grad(attend(), inputs, dy, allow_unused=True)

    row["forward_backward_ms"], row["repetitions"] = timed(meter, options, both)
    row["peak_mib"] = meter.peak_mib(both)


def case(options, kind, mode, length):
    title = KINDS[kind][0] + ("" if mode == "eager" else f", {mode}")
    row = {
        "name": title,
        "kind": kind,
        "settings": [f"{key}={value}" for key, value in SETTINGS[kind].items()],
        "length": length,
        "head_width": options.head_width,
        "heads": options.heads,
        "tokens": max(options.tokens // length, 1) * length,
        "dtype": "bfloat16 autocast" if options.device == "cuda" else "float32",
        "device": options.device,
        "forward_ms": None,
        "forward_backward_ms": None,
        "peak_mib": None,
        "repetitions": 0,
        "path": f"torch {torch.__version__}, {mode}",
    }
    if options.device == "cuda":
        row["gpu"] = torch.cuda.get_device_name()
    try:
        measure(options, kind, mode, length, row)
    except Exception as error:  # memory, or what a compiler does not take: the others go on
        row["error"] = f"{type(error).__name__}: {error}".split("\n")[0]
    if options.device == "cuda":
        torch.cuda.empty_cache()
    return row


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--lengths", default="4096")
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-width", type=int, default=64)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--modes", default="eager", help="eager, compile, or a mode of torch.compile")
    parser.add_argument("--threads", type=int, default=2, help="on the CPU")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10, help="time after which no further call begins")
    parser.add_argument("--warm-up", type=int, default=3)
    options = parser.parse_args()
    unknown = set(options.kinds.split(",")) - set(KINDS)
    if unknown or options.repetitions < 1 or options.warm_up < 1:
        parser.error(f"--kinds must be of {', '.join(KINDS)}; --repetitions and --warm-up at least 1")
    return options


def main():
    options = parse()
    torch.set_num_threads(options.threads)
    for kind in options.kinds.split(","):
        for length in map(int, options.lengths.split(",")):
            for mode in options.modes.split(","):
                print(json.dumps(case(options, kind, mode, length)), flush=True)


if __name__ == "__main__":
    main()
