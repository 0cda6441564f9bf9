"""SGD with momentum, and the update that it shares with LARS."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class MomentumRule(torch.optim.Optimizer):
    """An optimizer that updates a group at once. `found_inf` marks steps to skip, see `momentum_update`."""

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        self.found_inf: Tensor | None = None

    @abstractmethod
    def _step_group(self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> None:
        """Update the weights of a group that have gradients."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient. Returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if weights := [p for p in group["params"] if p.grad is not None]:
                self._step_group(group, weights, [w.grad for w in weights])
        return loss


class SGD(MomentumRule):
    """`v ← momentum v + g + wd w`, `w ← w - lr v`, where v is 0 before the first step.

    Groups have `lr`, `momentum` and `weight_decay`.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def _step_group(self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> None:
        momentum_update(
            self, group, weights, gradients, decay=group["weight_decay"], found_inf=self.found_inf
        )


def momentum_update(
    optimizer: torch.optim.Optimizer,
    group: dict[str, Any],
    weights: list[Tensor],
    updates: list[Tensor],
    *,
    decay: float = 0.0,
    found_inf: Tensor | None = None,
) -> None:
    """Update weights, and their `momentum_buffer` in the optimizer's state, in one pass over all weights.

    Args:
        optimizer: holds the buffers. If the momentum is 0, there are none.
        group: the group, which has `momentum` and `lr`.
        weights: w.
        updates: g.
        decay: wd.
        found_inf: scalar on the weights' device. If it is not 0, nothing changes, whatever the updates are. Torch's
            own fused optimizers use the same name.
    """
    states = [optimizer.state[weight] for weight in weights] if group["momentum"] else []
    for weight, state in zip(weights, states, strict=False):
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
    torch._fused_sgd_(
        weights,
        updates,
        [state["momentum_buffer"] for state in states],
        weight_decay=decay,
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
        found_inf=found_inf,
    )
