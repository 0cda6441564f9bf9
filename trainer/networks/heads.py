"""The heads behind the backbone: projector, predictors, and the transformer that computes centroids."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PositionalEncoding = Literal["feature_axis", "sequence_axis", "none"]


def projector(
    features: int, hidden: int, out: int, *, layers: Literal[2, 3] = 3, affine: bool = True
) -> nn.Sequential:
    """Linear layers, each with batch norm: [B, features] -> [B, out] (All4One and NNCLR, section 4).

    The last batch norm has scale and offset if `affine`. SimSiam and ReSA leave them out.
    """
    body = mlp if layers == 2 else deep_mlp
    return body(features, hidden, out).append(nn.BatchNorm1d(out, affine=affine))


def deep_mlp(features: int, hidden: int, out: int, *, bias: bool = True) -> nn.Sequential:
    """Three linear layers, batch norm after the first two: [B, features] -> [B, out] (LeJEPA's code)."""
    return nn.Sequential(
        nn.Linear(features, hidden, bias=bias),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, hidden, bias=bias),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out, bias=bias),
    )


def mlp(features: int, hidden: int, out: int) -> nn.Sequential:
    """Two linear layers with batch norm between: [B, features] -> [B, out] (BYOL, section 3.3)."""
    return nn.Sequential(
        nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out)
    )


def predictor(size: int, hidden: int) -> nn.Sequential:
    """Two linear layers with batch norm between: [B, size] -> [B, size]."""
    return mlp(size, hidden, size)


def gelu_mlp(features: int, hidden: int, out: int) -> nn.Sequential:
    """Three linear layers with GELU between, without batch norm: [B, features] -> [B, out] (DINO, section 3.1).

    As in the authors' code, weights start with a standard deviation of 0.02 and biases at 0.
    """
    network = nn.Sequential(
        nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, out)
    )
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return network


def expander(features: int, hidden: int, out: int) -> nn.Sequential:
    """Three linear layers, batch norm after the first two: [B, features] -> [B, out] (Barlow Twins, VICReg).

    The layers have no biases. Batch norm would remove the first two, and both losses center the output of the last
    layer.
    """
    return deep_mlp(features, hidden, out, bias=False)


def positional_encoding(length: int, size: int, axis: PositionalEncoding) -> Tensor:
    """Return the sine encoding [length, size] of a sequence of neighbors.

    `sequence_axis` counts along the neighbors, as in Vaswani et al. 2017 and as the All4One paper describes.
    `feature_axis` counts along the embedding and treats the neighbors as channels, as the published code does. `none`
    returns zeros: then the order of the sequence does not matter, except for the first token, which is the output.
    """
    if axis == "none":
        return torch.zeros(length, size, dtype=torch.float64)
    if axis == "sequence_axis":
        return _sine(positions=length, channels=size)
    return _sine(positions=size, channels=length).T.contiguous()


def _sine(positions: int, channels: int) -> Tensor:
    """Return [positions, channels]: sine on even channels, cosine on odd ones, with frequencies 10000^(-2j/C)."""
    even = 2 * math.ceil(channels / 2)
    channel = torch.arange(even, dtype=torch.float64)
    frequency = 10000.0 ** (-2 * (channel // 2) / even)  # [C]
    angle = torch.arange(positions, dtype=torch.float64)[:, None] * frequency  # [positions, C]
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())[:, :channels]


class CentroidTransformer(nn.Module):
    """Transformer encoder that turns a sequence of neighbors into one centroid (All4One section 3.3).

    It has post-norm layers with ReLU. Only the first token is the output, so the last layer computes only that token.
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

    def forward(self, sequences: Tensor, lengths: Tensor | None = None) -> Tensor:
        """[S, k, D] -> [S, D]. Under autocast the tokens keep the autocast dtype throughout, instead of a cast per
        product.

        Args:
            sequences: the neighbors, [S, k, D].
            lengths: number of tokens of each sequence that count, from 1 to k: [S] int64. None: all of them.
        """
        x, visible = _tokens(sequences, self.encoding), _visible(lengths, sequences.shape[1])
        for layer in self.layers[:-1]:
            x = _encode(layer, x, x, visible)
        return _encode(self.layers[-1], x, x[:, :1], visible)[:, 0]


class AttentionPooling(nn.Module):
    """One attention layer that turns a sequence of neighbors into one centroid: the first token asks all tokens.

    It is the attention half of a transformer layer with post-norm, without the feed-forward half.
    """

    encoding: Tensor  # [k, D] float64

    def __init__(
        self, size: int, *, length: int, heads: int, dropout: float, encoding: PositionalEncoding
    ) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(size, heads, dropout, batch_first=True)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(size)
        self.register_buffer("encoding", positional_encoding(length, size, encoding), persistent=False)

    def forward(self, sequences: Tensor, lengths: Tensor | None = None) -> Tensor:
        """[S, k, D] -> [S, D], in the autocast dtype under autocast. The arguments are those of the transformer."""
        x, visible = _tokens(sequences, self.encoding), _visible(lengths, sequences.shape[1])
        first = x[:, :1]
        pooled: Tensor = self.norm(first + _dropout(_attend(self.attention, x, first, visible), self.dropout))
        return pooled[:, 0]


def _tokens(sequences: Tensor, encoding: Tensor) -> Tensor:
    """Return sequences [S, k, D] with their positional encoding [k, D], in the dtype in which networks compute."""
    return (sequences + encoding.to(sequences.dtype)).to(_working_dtype(sequences))


def _visible(lengths: Tensor | None, length: int) -> Tensor | None:
    """Return which of `length` tokens count if only the first ones of each sequence do: [S, 1, 1, k], for all heads and
    queries."""
    if lengths is None:
        return None
    return (torch.arange(length, device=lengths.device) < lengths[:, None])[:, None, None]


def _working_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _encode(layer: nn.Module, x: Tensor, read: Tensor, visible: Tensor | None) -> Tensor:
    """Compute a post-norm encoder layer for the tokens `read` [S, q, D], which attend to the visible ones of the tokens
    x [S, k, D]."""
    assert isinstance(layer, nn.TransformerEncoderLayer)
    read = layer.norm1(read + _dropout(_attend(layer.self_attn, x, read, visible), layer.dropout1))
    hidden = _dropout(F.relu(layer.linear1(read)), layer.dropout)
    return layer.norm2(read + _dropout(layer.linear2(hidden), layer.dropout2))


def _attend(attention: nn.MultiheadAttention, x: Tensor, read: Tensor, visible: Tensor | None) -> Tensor:
    """Compute attention of `read` [S, q, D] to x [S, k, D] in memory order; torch's own version transposes twice.

    Tokens of x that are not visible [S, 1, 1, k] have no weight. None: all are visible.
    """
    weight, bias, size = attention.in_proj_weight, attention.in_proj_bias, x.shape[-1]
    if read is x:
        q, k, v = F.linear(x, weight, bias).chunk(3, dim=-1)
    else:
        q = F.linear(read, weight[:size], bias[:size])
        k, v = F.linear(x, weight[size:], bias[size:]).chunk(2, dim=-1)
    q, k, v = (t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for t in (q, k, v))  # [S, h, ., d]
    dropout = attention.dropout if attention.training else 0.0
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout)
    out: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return out


def _dropout(x: Tensor, settings: nn.Dropout) -> Tensor:
    """Dropout. On a CPU it uses 16 random bits per number.

    Torch's own dropout takes 1.5 times as long in float32 and twice as long in bf16. The probability is exact to within
    2^-16.
    """
    if not settings.training or settings.p == 0 or x.device.type != "cpu":
        out: Tensor = settings(x)
        return out
    words = _random_words(-(-x.numel() // 4))
    drawn = words.view(torch.int16)[: x.numel()].view(x.shape)  # uniform over [-2^15, 2^15)
    keep = drawn >= round(settings.p * 2**16) - 2**15
    return x * keep.to(x.dtype).mul_(1 / (1 - settings.p))


@torch.library.custom_op("all4one::random_words", mutates_args=(), tags=torch.Tag.nondeterministic_seeded)
def _random_words(count: int) -> Tensor:
    """Return integers of 64 random bits, [count]. torch.compile cannot trace the method of torch that draws them."""
    return torch.empty(count, dtype=torch.int64).random_(-(2**63), None)


@_random_words.register_fake
def _(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.int64)
