"""LARS (layer-wise adaptive rate scaling), the optimizer for large batches."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from trainer.engine.partition import Partition
from trainer.engine.sgd import MomentumRule, momentum_update


class LARS(MomentumRule):
    """Layer-wise adaptive rate scaling (You et al. 2017, arXiv 1708.03888) in the variant of All4One.

    For a weight w with gradient g, trust coefficient eta and |.| the L2 norm of one tensor:
    `r = eta |w| / (|g| + wd |w| + 1e-8)`, `r ← min(r / lr, 1)` with `clip_lr`,
    `v ← momentum v + r (g + wd w)`, `w ← w - lr v`, where v is 0 before the first step. If |w| or |g| is 0, or if the
    group has `exclude` set, the gradient is not scaled and there is no weight decay.

    Groups have `lr`, `momentum`, `weight_decay`, `trust_coefficient` (eta), `clip_lr` and `exclude`. No step waits for
    the device.

    Under ZeRO the engine replaces a group's weights by a flat tensor of pieces, and describes the pieces in
    `partitions`. Norms are still those of the full weights. They are summed over the ranks with one message per group.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 1e-5,
        trust_coefficient: float = 0.02,
        clip_lr: bool = True,
        exclude: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(
            params,
            {**defaults, "trust_coefficient": trust_coefficient, "clip_lr": clip_lr, "exclude": exclude},
        )
        self.partitions: dict[Tensor, Partition] = {}

    def _step_group(self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> None:
        updates = gradients if group["exclude"] else self._updates(group, weights, gradients)
        momentum_update(self, group, weights, updates, found_inf=self.found_inf)

    def _updates(self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        if self.partitions:
            shares = zip(weights, gradients, strict=True)
            return [_update_of_share(group, self.partitions[weight], weight, g) for weight, g in shares]
        norms = torch.stack([torch.stack(torch._foreach_norm(tensors)) for tensors in (weights, gradients)])
        return _scaled_gradients(group, weights, gradients, norms)


def _update_of_share(group: dict[str, Any], partition: Partition, weight: Tensor, gradient: Tensor) -> Tensor:
    """Return the result of `_scaled_gradients` for one rank's shard [P] of the group's weights."""
    norms = partition.norms(weight, gradient)  # every rank calls, also one without a piece
    own = [piece.member for piece in partition.layout]
    if not own:
        return torch.zeros_like(weight)
    weights, gradients = partition.pieces(weight), partition.pieces(gradient)
    return partition.join(_scaled_gradients(group, weights, gradients, norms[:, own]), like=weight)


def _scaled_gradients(
    group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor], norms: Tensor
) -> list[Tensor]:
    """Return `r (g + wd w)` for each of T tensors. If w or g is all zeros, r is 1 and wd is 0.

    Args:
        group: the settings of the group.
        weights: w, full tensors or pieces.
        gradients: g, full tensors or pieces.
        norms: norms of the full tensors w and g, [2, T].
    """
    weight_norms, gradient_norms = norms
    decay = group["weight_decay"]
    ratios = group["trust_coefficient"] * weight_norms / (gradient_norms + decay * weight_norms + 1e-8)
    if group["clip_lr"]:
        ratios = (ratios / group["lr"]).clamp(max=1) if group["lr"] else torch.ones_like(ratios)
    usual = (weight_norms > 0) & (gradient_norms > 0)
    decays = usual.to(ratios.dtype) * decay
    ratios = torch.where(usual, ratios, 1.0)
    updates = list(torch._foreach_mul(weights, list(decays.unbind())))
    torch._foreach_add_(updates, gradients)
    torch._foreach_mul_(updates, list(ratios.unbind()))
    return updates
