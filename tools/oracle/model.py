"""The encoder and its heads as published for the Long Range Arena: padded, masked, dropout 0.

Token id 0 is masked: it takes no part in attention and its row is 0 before pooling. Parameter names are those
of tern's checkpoints; query_key_value holds all query rows, then all key rows, then all value rows, each
head-major.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from oracle.functions import head_convolution, sinusoidal_positions, softmax_attention, yoso_attention

# Fields of ModelConfig that are keys of the same name in the section model of a configuration.
MODEL_KEYS = (
    "width",
    "heads",
    "hidden_width",
    "head_width",
    "layers",
    "norm",
    "positions",
    "pooling",
    "shared_layers",
)


@dataclass(frozen=True)
class ModelConfig:
    vocabulary: int
    padded_length: int
    width: int
    heads: int
    hidden_width: int
    head_width: int  # hidden columns of the head
    layers: int
    classes: int
    attention: str = "softmax"  # softmax, none (output = value) or yoso (the expectation)
    bits: int = 8  # yoso
    gradient: str = "surrogate"  # yoso: surrogate or exact
    conv_window: int = 0  # yoso: odd, or 0 for none
    norm: str = "pre"  # pre: x + f(LN(x)) and a final norm; post: LN(x + f(x)), no final norm
    pooling: str = "padded_mean"  # padded_mean, mean (over real tokens) or first
    positions: str = "learned"  # learned or sinusoidal
    pair: bool = False  # two sequences a record, head on [a, b, a * b, a - b]
    shared_layers: bool = False  # one block applied `layers` times

    def __post_init__(self):
        allowed = {
            "attention": ("softmax", "none", "yoso"),
            "gradient": ("surrogate", "exact"),
            "norm": ("pre", "post"),
            "pooling": ("padded_mean", "mean", "first"),
            "positions": ("learned", "sinusoidal"),
        }
        for key, values in allowed.items():
            if getattr(self, key) not in values:
                raise ValueError(f"{key} must be one of {', '.join(values)}, got {getattr(self, key)}")


class HeadConvolution(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.heads, config.conv_window))

    def forward(self, value, mask):
        """value [batch, heads, length, head_width], mask [batch, 1, length]"""
        return head_convolution((value * mask.unsqueeze(-1)).transpose(1, 2), self.weight).transpose(1, 2)


class MultiHeadAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.output = nn.Linear(config.width, config.width)
        if config.conv_window > 0:
            self.convolution = HeadConvolution(config)

    def forward(self, x, mask):
        batch, length, width = x.shape
        heads = self.config.heads
        product = self.query_key_value(x).view(batch, length, 3, heads, width // heads)
        query, key, value = product.permute(2, 0, 3, 1, 4)
        mixed = self.mix(query, key, value, mask.unsqueeze(1))
        return self.output(mixed.transpose(1, 2).reshape(batch, length, width))

    def mix(self, query, key, value, mask):
        if self.config.attention == "none":
            return value
        if self.config.attention == "softmax":
            return softmax_attention(query, key, value, mask)
        out = yoso_attention(query, key, value, mask, self.config.bits, self.config.gradient)
        return out + self.convolution(value, mask) if self.config.conv_window > 0 else out


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(config.width, config.hidden_width)
        self.down = nn.Linear(config.hidden_width, config.width)

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


class EncoderLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm_first = config.norm == "pre"
        self.attention_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.attention = MultiHeadAttention(config)
        self.feed_forward_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.feed_forward = FeedForward(config)

    def forward(self, x, mask):
        if self.norm_first:
            x = x + self.attention(self.attention_norm(x), mask)
            return x + self.feed_forward(self.feed_forward_norm(x))
        x = self.attention_norm(x + self.attention(x, mask))
        return self.feed_forward_norm(x + self.feed_forward(x))


class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.padded_length, config.width)
        blocks = 1 if config.shared_layers else config.layers
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(blocks))
        if config.norm == "pre":
            self.final_norm = nn.LayerNorm(config.width, eps=1e-5)

    def positions(self, length):
        if self.config.positions == "learned":
            return self.position_embedding.weight[:length]
        weight = self.token_embedding.weight
        return sinusoidal_positions(length, self.config.width, weight.dtype).to(weight.device)

    def forward(self, tokens):
        """[sequences, length] -> [sequences, length, width], 0 where masked; length <= padded_length."""
        mask = (tokens != 0).to(self.token_embedding.weight.dtype)
        x = self.token_embedding(tokens) + self.positions(tokens.shape[1])
        for index in range(self.config.layers):
            x = self.layers[0 if self.config.shared_layers else index](x, mask)
        if self.config.norm == "pre":
            x = self.final_norm(x)
        return x * mask.unsqueeze(-1)

    def pool(self, encoded, tokens):
        if self.config.pooling == "first":
            return encoded[:, 0]
        total = encoded.sum(dim=1)
        if self.config.pooling == "padded_mean":
            return total / self.config.padded_length
        return total / (tokens != 0).sum(dim=1, keepdim=True)


class Head(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.hidden = nn.Linear(config.width * (4 if config.pair else 1), config.head_width)
        self.output = nn.Linear(config.head_width, config.classes)

    def forward(self, pooled):
        return self.output(F.relu(self.hidden(pooled)))


class Classifier(nn.Module):
    """tokens [sequences, length]; a pair model reads all first sequences, then all second ones."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.head = Head(config)

    def forward(self, tokens):
        """(encoded [sequences, length, width], pooled [sequences, width], logits [records, classes])"""
        encoded = self.encoder(tokens)
        pooled = self.encoder.pool(encoded, tokens)
        feature = pooled
        if self.config.pair:
            first, second = pooled.chunk(2)
            feature = torch.cat([first, second, first * second, first - second], dim=-1)
        return encoded, pooled, self.head(feature)
