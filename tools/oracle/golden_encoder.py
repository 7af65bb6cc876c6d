"""Encoder, heads and loss: forward values and the gradient of every parameter."""

import torch
import torch.nn.functional as F

from oracle.batches import padded_batch, ragged
from oracle.golden_file import GoldenFile
from oracle.model import MODEL_KEYS, Classifier, ModelConfig

SHAPE = dict(vocabulary=13, padded_length=20, width=16, heads=2, hidden_width=24, head_width=10, classes=5)
SMALL = dict(layers=1, width=8, hidden_width=12)  # enough where only the end of the model differs
LENGTHS = (20, 7, 1, 13)
SECOND_LENGTHS = (5, 20, 9, 1)
GAPS = ((0, 0), (0, 6), (0, 7), (1, 3), (3, 1), (3, 11))

CASES = {
    "softmax_pre_norm": dict(layers=2),
    "softmax_post_norm": dict(layers=2, norm="post"),
    "yoso_surrogate": dict(layers=2, attention="yoso", bits=8, gradient="surrogate"),
    "yoso_exact": dict(layers=2, attention="yoso", bits=8, gradient="exact"),
    "yoso_gaps": dict(layers=1, attention="yoso", bits=5, gradient="surrogate"),
    "yoso_convolution": dict(SMALL, attention="yoso", bits=3, conv_window=5),
    "none": dict(SMALL, attention="none"),
    "softmax_mean": dict(SMALL, pooling="mean"),
    "softmax_first": dict(SMALL, pooling="first"),
    "softmax_pair": dict(SMALL, pair=True),
    "softmax_shared": dict(layers=3, shared_layers=True),
    "softmax_sinusoidal": dict(SMALL, positions="sinusoidal"),
}


def tern_config(config):
    """The configuration as tern writes it, and what tern learns from the task."""
    attention = {"kind": config.attention}
    if config.attention == "yoso":
        options = {"bits": config.bits, "gradient": config.gradient, "conv_window": config.conv_window}
        attention.update(options, form="expectation")
    model = {key: getattr(config, key) for key in MODEL_KEYS}
    task = {"vocabulary": config.vocabulary, "padded_length": config.padded_length, "outputs": config.classes}
    return {"model": dict(model, dropout=0, attention=attention), "task": dict(task, is_pair=config.pair)}


def random_model(golden, config):
    """Weights far from their usual start, so that no gradient is near 0 and a missing bias shows."""
    model = Classifier(config).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                value = golden.normal(*parameter.shape, scale=0.2, shift=1.0)
            elif "embedding" in name:
                value = golden.normal(*parameter.shape, scale=0.7)
            elif name.endswith("bias"):
                value = golden.normal(*parameter.shape, scale=0.3)
            else:
                value = golden.normal(*parameter.shape, scale=1.2 / parameter.shape[1] ** 0.5)
            parameter.copy_(value)
    return model


def encoder_case(name, seed, options):
    config = ModelConfig(**{**SHAPE, **options})
    golden = GoldenFile(
        f"encoder_{name}",
        seed,
        tern_config(config),
        "ragged batch; loss: mean cross-entropy; encoded: after the final norm, real tokens only; "
        "pair: all first sequences, then all second ones",
    )
    model = random_model(golden, config)
    gaps = GAPS if name in ("yoso_gaps", "yoso_convolution") else ()
    tokens = padded_batch(golden, LENGTHS, config.padded_length, config.vocabulary, gaps)
    if config.pair:
        second = padded_batch(golden, SECOND_LENGTHS, config.padded_length, config.vocabulary)
        tokens = torch.cat([tokens, second])
    labels = golden.integers(0, config.classes, len(LENGTHS))
    encoded, pooled, logits = model(tokens)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    golden.add(
        **ragged(tokens), labels=labels, encoded=encoded[tokens != 0], pooled=pooled, logits=logits, loss=loss
    )
    for parameter_name, parameter in model.named_parameters():
        golden.put(f"weight.{parameter_name}", parameter)
        golden.put(f"gradient.{parameter_name}", parameter.grad)
    return golden


def encoder_files():
    return [encoder_case(name, 100 + index, options) for index, (name, options) in enumerate(CASES.items())]
