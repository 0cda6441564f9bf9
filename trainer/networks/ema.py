"""Momentum (EMA) encoders: networks that follow others as an exponential moving average."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainer.distributed.batch_norm import forward_per_view
from trainer.networks.ema_schedule import momentum_at


def frozen_copy(module: nn.Module) -> nn.Module:
    """Return a copy without gradients. It stays in training mode with its parent, so batch norm uses batch
    statistics."""
    return copy.deepcopy(module).requires_grad_(False)


@contextmanager
def cast_once(module: nn.Module) -> Iterator[None]:
    """Make autocast cast each weight of a frozen module only once in this context, without gradients.

    Autocast caches casts only of weights that require a gradient, until its own context ends.
    """
    with torch.no_grad():
        module.requires_grad_(True)
        try:
            yield
        finally:
            module.requires_grad_(False)


class MomentumEncoder(nn.ModuleDict):
    """The momentum (EMA) copy of a backbone, its projector and further heads, under these names. It has no gradients.

    Args:
        backbone: the backbone to copy.
        projector: the projector to copy.
        start: momentum at the first step. It follows a cosine to `end`.
        end: momentum at the last step.
        heads: networks behind the projector to copy, by their names in the method.
    """

    def __init__(
        self, backbone: nn.Module, projector: nn.Module, start: float, end: float = 1.0, **heads: nn.Module
    ) -> None:
        networks = {"backbone": backbone, "projector": projector, **heads}
        super().__init__({name: frozen_copy(network) for name, network in networks.items()})
        self.start, self.end = start, end

    def embed(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Pass views [B, 3, S, S] through all networks, in the working precision: [B, D] each."""
        return self.features_and_embeddings(views)[1]

    def features_and_embeddings(self, views: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return what `embed` does, and the backbone's features [B, F] of each view before it."""
        backbone, *heads = self.values()
        with cast_once(self):
            features = out = forward_per_view(backbone, views)
            for head in heads:
                out = forward_per_view(head, out)
        return features, out


@torch.no_grad()
def distance(pairs: Sequence[tuple[nn.Module, nn.Module]]) -> Tensor:
    """Return the distance [] of the first modules' parameters from the second's, relative to the norm of the latter."""
    targets: list[Tensor] = [p for target, _ in pairs for p in target.parameters()]
    sources: list[Tensor] = [p for _, source in pairs for p in source.parameters()]
    apart = torch.stack(torch._foreach_norm(list(torch._foreach_sub(targets, sources)))).norm()
    return apart / torch.stack(torch._foreach_norm(sources)).norm()


@torch.no_grad()
def lerp(target: nn.Module, source: nn.Module, momentum: float, skip: Tensor | None = None) -> None:
    """target <- momentum * target + (1 - momentum) * source, for parameters only. Batch norm keeps its own buffers.

    Args:
        target: the module that follows.
        source: the module that it follows.
        momentum: from 0 to 1.
        skip: nothing changes if this is 1.0 ([], float32, on the device of the parameters). None: it is 0.0.
    """
    targets: list[Tensor] = list(target.parameters())
    sources: list[Tensor] = list(source.parameters())
    if targets and targets[0].is_cuda:
        lerp_unless(targets, sources, momentum, skip)  # a device answers no question without a wait
    elif skip is None or not skip:
        torch._foreach_lerp_(targets, sources, 1 - momentum)


def lerp_unless(targets: list[Tensor], sources: list[Tensor], momentum: float, skip: Tensor | None) -> None:
    """Do what `lerp` does, without a look at `skip` on the host.

    SGD with weight decay -1 and the rate -(1 - momentum) moves t by (1 - momentum) (s - t) if s is its gradient. The
    kernel of SGD is the one that can be told on the device to change nothing.
    """
    torch._fused_sgd_(
        targets,
        sources,
        [],
        weight_decay=-1.0,
        momentum=0.0,
        lr=momentum - 1,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
        found_inf=skip,
    )


def update(
    pairs: Sequence[tuple[nn.Module, nn.Module]],
    step: int,
    total_steps: int,
    start: float,
    skip: Tensor | None = None,
    end: float = 1.0,
) -> None:
    """Update the first module of each pair toward the second one, after optimizer step number `step` (from 1).

    The momentum follows a cosine from `start` to `end`. Nothing changes if `skip` is 1.0, see `lerp`.
    """
    momentum = momentum_at(step - 1, total_steps, start, end)
    for target, source in pairs:
        lerp(target, source, momentum, skip)
