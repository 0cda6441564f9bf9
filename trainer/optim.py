"""Optimisers, their parameter groups and the learning rate of every step."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from data_pipelines.errors import UserError
from data_pipelines.settings import Settings

ROLES = ("main", "transformer", "classifier")


class OptimSettings(Settings):
    """How weights follow gradients."""

    name: Literal["lars", "adamw", "sgd"] = "lars"
    """The optimiser."""
    lr: float = Field(1.0, gt=0)
    """Learning rate at `reference_batch`; it grows in proportion to the global batch."""
    reference_batch: int = Field(256, ge=1)
    """Global batch, samples, for which the learning rates are stated."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of lars and sgd."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of adamw's first and second moment."""
    weight_decay: float = Field(1e-5, ge=0)
    """Weight decay; biases, norms and the online classifier have none."""
    eta: float = Field(0.02, gt=0)
    """Trust coefficient of lars."""
    clip_lr: bool = True
    """Whether the trust ratio of lars never raises a layer's rate above the learning rate."""
    transformer_lr: float = Field(0.1, gt=0)
    """Learning rate of the centroid transformer."""
    scale_transformer_lr: bool = False
    """Whether the transformer's learning rate grows with the global batch too."""
    classifier_lr: float = Field(0.1, gt=0)
    """Learning rate of the online classifier at `reference_batch`; it grows with the global batch."""
    warmup_epochs: float = Field(10, ge=0)
    """Length of the linear warm-up, epochs."""
    warmup_start_lr: float = Field(3e-5, ge=0)
    """Learning rate of the first step of the warm-up, the same for every group."""
    clip_gradients: float = Field(0, ge=0)
    """Largest norm of the whole gradient; 0: no clipping."""


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017, arXiv 1708.03888) as All4One trains with it.

    For a weight w with gradient g, with |.| the L2 norm of one tensor:
    `r = eta |w| / (|g| + wd |w| + 1e-8)`, `r ← min(r / lr, 1)` with `clip_lr`,
    `v ← momentum v + r (g + wd w)`, `w ← w - lr v`. The first v is the first scaled gradient. Where |w| or
    |g| is 0, and in groups with `exclude` true, the gradient is neither scaled nor decayed.

    Groups carry `lr`, `momentum`, `weight_decay`, `eta`, `clip_lr` and `exclude`. No step waits for the device.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 1e-5,
        eta: float = 0.02,
        clip_lr: bool = True,
        exclude: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "eta": eta, "clip_lr": clip_lr, "exclude": exclude})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._step_group(group, weights)
        return loss

    def _step_group(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        gradients = [w.grad for w in weights if w.grad is not None]
        updates = gradients if group["exclude"] else _scaled_gradients(group, weights, gradients)
        velocities, known_updates = [], []
        for weight, update in zip(weights, updates, strict=True):
            state = self.state[weight]
            if "momentum_buffer" in state:
                velocities.append(state["momentum_buffer"])
                known_updates.append(update)
            else:
                state["momentum_buffer"] = update.clone() if group["exclude"] else update
        if velocities:
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, known_updates)
        all_velocities = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_add_(weights, all_velocities, alpha=-group["lr"])


def _scaled_gradients(group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """`r (g + wd w)` for every tensor, where r and wd are skipped for tensors of zeros."""
    weight_norms = torch.stack(torch._foreach_norm(weights))  # [T]
    gradient_norms = torch.stack(torch._foreach_norm(gradients))  # [T]
    decay = group["weight_decay"]
    ratios = group["eta"] * weight_norms / (gradient_norms + decay * weight_norms + 1e-8)
    if group["clip_lr"]:
        ratios = (ratios / group["lr"]).clamp(max=1) if group["lr"] else torch.ones_like(ratios)
    usual = (weight_norms > 0) & (gradient_norms > 0)
    decays = usual.to(ratios.dtype) * decay
    ratios = torch.where(usual, ratios, 1.0)
    updates = list(torch._foreach_mul(weights, list(decays.unbind())))
    torch._foreach_add_(updates, gradients)
    torch._foreach_mul_(updates, list(ratios.unbind()))
    return updates


# What each optimiser keeps for a parameter → what that is called in a checkpoint.
_STATE_NAMES: dict[type[torch.optim.Optimizer], dict[str, str]] = {
    LARS: {"momentum_buffer": "momentum"},
    torch.optim.SGD: {"momentum_buffer": "momentum"},
    torch.optim.AdamW: {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "step": "step"},
}


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], settings: OptimSettings, global_batch: int
) -> list[dict[str, Any]]:
    """Sort the parameters that train into groups, in a fixed order, with their rates for this global batch.

    Each group has `role` ("main", "transformer" or "classifier"), `exclude` (at most one dimension: biases
    and norms), `base_lr`, `lr`, `weight_decay` and `params`. The role is told by the first part of the
    dotted name that is `classifier` or starts with `transformer`; whatever is inside a `backbone` is main.
    """
    scale = global_batch / settings.reference_batch
    base_lr = {
        "main": settings.lr * scale,
        "transformer": settings.transformer_lr * (scale if settings.scale_transformer_lr else 1),
        "classifier": settings.classifier_lr * scale,
    }
    members: dict[tuple[str, bool], list[nn.Parameter]] = {(r, e): [] for r in ROLES for e in (False, True)}
    for name, parameter in named:
        if parameter.requires_grad:
            members[_role(name), parameter.ndim <= 1].append(parameter)
    return [
        {
            "params": parameters,
            "role": role,
            "exclude": exclude,
            "base_lr": base_lr[role],
            "lr": base_lr[role],
            "weight_decay": 0.0 if exclude or role == "classifier" else settings.weight_decay,
        }
        for (role, exclude), parameters in members.items()
        if parameters
    ]


def _role(name: str) -> str:
    for part in name.split("."):
        if part == "backbone":
            break
        if part == "classifier":
            return "classifier"
        if part.startswith("transformer"):
            return "transformer"
    return "main"


def build_optimizer(groups: list[dict[str, Any]], settings: OptimSettings) -> torch.optim.Optimizer:
    """The optimiser that the settings name, over groups from `parameter_groups`."""
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
    return LARS(
        groups, lr=settings.lr, momentum=settings.momentum, eta=settings.eta, clip_lr=settings.clip_lr
    )


@dataclass(frozen=True)
class Schedule:
    """Learning rate of every step: linear warm-up, then a cosine to 0 at `total_steps` (arXiv 1608.03983)."""

    warmup_start_lr: float
    warmup_steps: int
    total_steps: int

    @classmethod
    def from_settings(cls, settings: OptimSettings, steps_per_epoch: int, total_steps: int) -> "Schedule":
        """The schedule of a run.

        Raises:
            UserError: the warm-up is longer than the run.
        """
        warmup_steps = round(settings.warmup_epochs * steps_per_epoch)
        if warmup_steps > total_steps:
            epochs = total_steps / steps_per_epoch
            raise UserError(
                f"the warm-up of {settings.warmup_epochs:g} epochs exceeds the run of {epochs:g} epochs",
                where="optim.warmup_epochs",
                fix=f"set optim.warmup_epochs to {epochs / 10:g}, or train for longer",
            )
        return cls(settings.warmup_start_lr, warmup_steps, total_steps)

    def lr(self, base_lr: float, step: int) -> float:
        """Learning rate of the update number `step`, counted from 0, of a group that peaks at `base_lr`."""
        if step < self.warmup_steps:
            start = min(self.warmup_start_lr, base_lr)
            return start + (base_lr - start) * step / self.warmup_steps
        if step >= self.total_steps:
            return 0.0
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return base_lr * (1 + math.cos(math.pi * progress)) / 2

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set the learning rate of every group for the update number `step`."""
        for group in optimizer.param_groups:
            group["lr"] = self.lr(group["base_lr"], step)


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, named_parameters: Iterable[tuple[str, Tensor]]
) -> dict[str, Tensor]:
    """What the optimiser remembers, as `KIND/PARAMETER` → tensor in the parameter's shape ("momentum/…").

    Tensors are the optimiser's own, not copies. A parameter without an update so far has an empty tensor.
    """
    tensors = {}
    for name, parameter in _optimised(optimizer, named_parameters):
        state = optimizer.state.get(parameter, {})
        for key, kind in _STATE_NAMES[type(optimizer)].items():
            value = state.get(key)
            tensors[f"{kind}/{name}"] = parameter.new_empty(0) if value is None else value.detach()
    return tensors


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer,
    named_parameters: Iterable[tuple[str, Tensor]],
    tensors: dict[str, Tensor],
) -> None:
    """Give the optimiser the memory that `optimizer_tensors` read; tensors are copied.

    Raises:
        UserError: a tensor is missing, has another shape or type, or belongs to no parameter. Nothing changes.
    """
    members = _optimised(optimizer, named_parameters)
    kinds = _STATE_NAMES[type(optimizer)]
    expected = {f"{kind}/{name}" for name, _ in members for kind in kinds.values()}
    if missing := sorted(expected - tensors.keys()):
        raise _mismatch(f"the optimiser's state lacks {_some(missing)}")
    if unknown := sorted(tensors.keys() - expected):
        raise _mismatch(f"the optimiser's state has {_some(unknown)}, which nothing here uses")
    loaded: dict[Tensor, dict[str, Tensor]] = {}
    for name, parameter in members:
        state = {key: tensors[f"{kind}/{name}"] for key, kind in kinds.items()}
        if all(tensor.shape == (0,) for tensor in state.values()):
            continue
        for key, tensor in state.items():
            shape = () if key == "step" else tuple(parameter.shape)
            if tuple(tensor.shape) != shape or (key != "step" and tensor.dtype != parameter.dtype):
                raise _mismatch(
                    f"{kinds[key]}/{name} is {tensor.dtype} {list(tensor.shape)}, "
                    f"the parameter needs {parameter.dtype} {list(shape)}"
                )
        # AdamW counts steps on the CPU, wherever the parameter is.
        loaded[parameter] = {
            key: tensor.detach().cpu().clone() if key == "step" else torch.empty_like(parameter).copy_(tensor)
            for key, tensor in state.items()
        }
    optimizer.state.clear()
    optimizer.state.update(loaded)


def _optimised(
    optimizer: torch.optim.Optimizer, named_parameters: Iterable[tuple[str, Tensor]]
) -> list[tuple[str, Tensor]]:
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return [(name, parameter) for name, parameter in named_parameters if id(parameter) in own]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _mismatch(what: str) -> UserError:
    return UserError(
        what,
        where="checkpoint",
        fix="resume with the model and optimiser that wrote the checkpoint, or start a new run",
    )
