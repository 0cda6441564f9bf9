"""Networks and losses written out straight, for formulas that methods are held to."""

from typing import NamedTuple

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Result(NamedTuple):
    loss: Tensor
    """Mean over the ranks."""
    gradients: Tensors
    """By parameter, means over the ranks."""


def linear(p: Tensors, layer: str, x: Tensor) -> Tensor:
    out = x @ p[f"{layer}.weight"].T
    return out + p[f"{layer}.bias"] if f"{layer}.bias" in p else out


def fixed_norm(x: Tensor) -> Tensor:
    """Batch norm without scale and offset."""
    return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()


def norm(p: Tensors, layer: str, x: Tensor) -> Tensor:
    x = fixed_norm(x)
    return x * p[f"{layer}.weight"] + p[f"{layer}.bias"]


def two(p: Tensors, head: str, x: Tensor) -> Tensor:
    return linear(p, f"{head}.3", norm(p, f"{head}.1", linear(p, f"{head}.0", x)).clamp(min=0))


def three(p: Tensors, head: str, x: Tensor) -> Tensor:
    hidden = norm(p, f"{head}.1", linear(p, f"{head}.0", x)).clamp(min=0)
    return linear(p, f"{head}.6", norm(p, f"{head}.4", linear(p, f"{head}.3", hidden)).clamp(min=0))


def unit(x: Tensor) -> Tensor:
    return x / (x * x).sum(1, keepdim=True).sqrt()


def cross_entropy(scores: Tensor) -> Tensor:
    """Of each row's own column."""
    return torch.stack([-(row[i].exp() / row.exp().sum()).log() for i, row in enumerate(scores)]).mean()


def assert_same(found: Result, wanted: Result) -> None:
    torch.testing.assert_close(found.loss, wanted.loss, rtol=0, atol=1e-10)
    assert found.gradients.keys() == wanted.gradients.keys()
    for name, gradient in wanted.gradients.items():
        torch.testing.assert_close(found.gradients[name], gradient, rtol=0, atol=1e-9, msg=name)
