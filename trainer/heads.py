"""The small networks behind the backbone: projector, predictors, and the transformer that makes centroids."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

PositionalEncoding = Literal["feature_axis", "sequence_axis"]


def projector(features: int, hidden: int, out: int) -> nn.Sequential:
    """Three linear layers, each with batch norm: [B, features] -> [B, out] (All4One and NNCLR, section 4)."""
    return nn.Sequential(
        nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True),
        nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True),
        nn.Linear(hidden, out), nn.BatchNorm1d(out),
    )  # fmt: skip


def predictor(size: int, hidden: int) -> nn.Sequential:
    """Two linear layers with batch norm between: [B, size] -> [B, size]."""
    return nn.Sequential(
        nn.Linear(size, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, size)
    )  # fmt: skip


def positional_encoding(length: int, size: int, axis: PositionalEncoding) -> Tensor:
    """Sine encoding [length, size] of a sequence of neighbours.

    `sequence_axis` counts along the neighbours, as in Vaswani et al. 2017 and as the All4One paper describes.
    `feature_axis` counts along the embedding and takes the neighbours for channels, as the published code does.
    """
    if axis == "sequence_axis":
        return _sine(positions=length, channels=size)
    return _sine(positions=size, channels=length).T.contiguous()


def _sine(positions: int, channels: int) -> Tensor:
    """[positions, channels]: sine on even channels and cosine on odd ones, of frequencies 10000^(-2j/C)."""
    even = 2 * math.ceil(channels / 2)
    channel = torch.arange(even, dtype=torch.float64)
    frequency = 10000.0 ** (-2 * (channel // 2) / even)  # [C]
    angle = torch.arange(positions, dtype=torch.float64)[:, None] * frequency  # [positions, C]
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())[:, :channels]


class CentroidTransformer(nn.Module):
    """Encoder that turns a sequence of neighbours into one centroid (All4One section 3.3).

    Post-norm layers with ReLU. Only the first token is read, so the last layer computes only that one.
    """

    encoding: Tensor  # [k, D] float64

    def __init__(
        self, size: int, *, length: int, depth: int, heads: int, dropout: float, encoding: PositionalEncoding
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(size, heads, 2 * size, dropout, batch_first=True) for _ in range(depth)
        )
        self.register_buffer("encoding", positional_encoding(length, size, encoding), persistent=False)

    def forward(self, sequences: Tensor) -> Tensor:
        """[S, k, D] -> [S, D]."""
        x = sequences + self.encoding.to(sequences.dtype)
        for layer in self.layers[:-1]:
            x = layer(x)
        last = self.layers[-1]
        assert isinstance(last, nn.TransformerEncoderLayer)
        attended, _ = last.self_attn(x[:, :1], x, x, need_weights=False)
        x = last.norm1(x[:, :1] + last.dropout1(attended))
        return last.norm2(x + last._ff_block(x))[:, 0]
