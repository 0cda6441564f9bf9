"""Momentum copies: networks that follow others as an exponential moving average."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainer.distributed.batch_norm import forward_per_view


def momentum_at(step: int, total_steps: int, start: float) -> float:
    """Cosine from `start` at step 0 to 1.0 at the last step (Grill et al. 2020, appendix)."""
    return 1 - (1 - start) * (math.cos(math.pi * min(step, total_steps) / total_steps) + 1) / 2


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy that takes no gradient. It stays in training mode with its parent: its batch norm uses batch moments."""
    return copy.deepcopy(module).requires_grad_(False)


@contextmanager
def cast_once(module: nn.Module) -> Iterator[None]:
    """Within it, and without gradient, autocast casts each weight of a frozen module once and not at every call.

    Autocast remembers casts of weights that ask for a gradient alone, until its own context ends.
    """
    with torch.no_grad():
        module.requires_grad_(True)
        try:
            yield
        finally:
            module.requires_grad_(False)


class MomentumEncoder(nn.ModuleDict):
    """Averaged copy of a backbone and of the projector on it, under these names. It takes no gradient.

    Args:
        backbone: what is copied.
        projector: what is copied.
        start: momentum at the first step; a cosine takes it to 1.0 at the end.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, start: float) -> None:
        super().__init__({"backbone": frozen_copy(backbone), "projector": frozen_copy(projector)})
        self.start = start

    def embed(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Embeddings of views [B, 3, S, S], in the working precision: [B, D] each."""
        with cast_once(self):
            return forward_per_view(self["projector"], forward_per_view(self["backbone"], views))


@torch.no_grad()
def distance(pairs: Sequence[tuple[nn.Module, nn.Module]]) -> Tensor:
    """Euclidean distance of the first modules' parameters from the second's, as a share of the norm of these: []."""
    targets: list[Tensor] = [p for target, _ in pairs for p in target.parameters()]
    sources: list[Tensor] = [p for _, source in pairs for p in source.parameters()]
    apart = torch.stack(torch._foreach_norm(list(torch._foreach_sub(targets, sources)))).norm()
    return apart / torch.stack(torch._foreach_norm(sources)).norm()


@torch.no_grad()
def lerp(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """target <- momentum * target + (1 - momentum) * source, parameters only: batch-norm buffers run their own."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), 1 - momentum)


def update(pairs: Sequence[tuple[nn.Module, nn.Module]], step: int, total_steps: int, start: float) -> None:
    """Move the first module of each pair after the second one, once optimizer step number `step` (from 1) is done.

    The momentum is that of a cosine from `start`.
    """
    momentum = momentum_at(step - 1, total_steps, start)
    for target, source in pairs:
        lerp(target, source, momentum)
