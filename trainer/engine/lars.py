"""LARS (layer-wise adaptive rate scaling), the optimizer for large batches."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from trainer.engine.padded_rows import PaddedRows
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
        self._rows: dict[tuple[int, ...], PaddedRows] = {}

    def _step_group(self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> None:
        updates = gradients if group["exclude"] else self._updates(group, weights, gradients)
        momentum_update(self, group, weights, updates, found_inf=self.found_inf)

    def _updates(self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        if self.partitions:
            shards = zip(weights, gradients, strict=True)
            return [self._update_of_shard(group, self.partitions[weight], weight, g) for weight, g in shards]
        norms = torch.stack(torch._foreach_norm([*weights, *gradients])).view(2, -1)
        return self._scaled_gradients(group, weights, gradients, norms)

    def _update_of_shard(
        self, group: dict[str, Any], partition: Partition, weight: Tensor, gradient: Tensor
    ) -> Tensor:
        """Return the result of `_scaled_gradients` for one rank's shard [P] of the group's weights."""
        norms = partition.norms(weight, gradient)  # every rank calls, also one without a piece
        own = [piece.member for piece in partition.layout]
        if not own:
            return torch.zeros_like(weight)
        weights, gradients = partition.pieces(weight), partition.pieces(gradient)
        norms = norms[:, own[0] : own[-1] + 1]
        return partition.join(self._scaled_gradients(group, weights, gradients, norms), like=weight)

    def _scaled_gradients(
        self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor], norms: Tensor
    ) -> list[Tensor]:
        """Return `r (g + wd w)` for each of T tensors. If w or g is all zeros, r is 1 and wd is 0.

        Args:
            group: the settings of the group.
            weights: w, full tensors or pieces.
            gradients: g, full tensors or pieces.
            norms: norms of the full tensors w and g, [2, T].
        """
        decays, ratios = _decays_and_ratios(group, norms)
        if norms.is_cpu:
            return scaled_one_by_one(weights, gradients, decays, ratios)
        sizes = tuple(weight.numel() for weight in weights)
        rows = self._rows.get(sizes)
        if rows is None:
            rows = self._rows[sizes] = PaddedRows(sizes, norms.device)
        return scaled_in_rows(rows, weights, gradients, decays, ratios)


def scaled_one_by_one(
    weights: list[Tensor], gradients: list[Tensor], decays: Tensor, ratios: Tensor
) -> list[Tensor]:
    """Return `r (g + wd w)` for each of T tensors, for wd and r of each tensor, [T].

    There is an operation for each tensor. On a CPU it costs little, and the copies of `scaled_in_rows` cost more.
    """
    updates = list(torch._foreach_mul(weights, list(decays.unbind())))
    torch._foreach_add_(updates, gradients)
    torch._foreach_mul_(updates, list(ratios.unbind()))
    return updates


def scaled_in_rows(
    rows: PaddedRows, weights: list[Tensor], gradients: list[Tensor], decays: Tensor, ratios: Tensor
) -> list[Tensor]:
    """Return what `scaled_one_by_one` returns, with a few kernels for all tensors."""
    buffer, updates = rows.copy(weights)
    decays, ratios = rows.by_row(torch.stack([decays, ratios]))  # [R, 1] each
    buffer.mul_(decays)
    torch._foreach_add_(updates, gradients)
    buffer.mul_(ratios)
    return updates


def _decays_and_ratios(group: dict[str, Any], norms: Tensor) -> tuple[Tensor, Tensor]:
    """Return wd and r of each tensor, [T] each, from the norms of w and g, [2, T]."""
    weight_norms, gradient_norms = norms
    decay = group["weight_decay"]
    ratios = group["trust_coefficient"] * weight_norms / (gradient_norms + decay * weight_norms + 1e-8)
    if group["clip_lr"]:
        ratios = (ratios / group["lr"]).clamp(max=1) if group["lr"] else torch.ones_like(ratios)
    usual = (weight_norms > 0) & (gradient_norms > 0)
    decays = usual.to(ratios.dtype) * decay
    return decays, torch.where(usual, ratios, 1.0)
