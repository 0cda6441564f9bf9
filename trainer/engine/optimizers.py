"""Optimizers, their parameter groups and the learning rate of every step."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from data_pipelines.errors import UserError
from data_pipelines.settings import Settings, Strength
from trainer.engine.lars import LARS
from trainer.engine.momentum import SGD

ROLES = ("main", "transformer", "classifier")


class OptimSettings(Settings):
    """How weights follow gradients."""

    first_names = {"eta": "trust_coefficient", "clip_gradients": "max_grad_norm"}

    name: Literal["lars", "adamw", "sgd"] = "lars"
    """The optimizer."""
    lr: float = Field(1.0, gt=0)
    """Learning rate at `reference_batch`; it grows in proportion to the global batch."""
    reference_batch: int = Field(256, ge=1)
    """Global batch, samples, for which the learning rates are stated."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of lars and sgd."""
    betas: tuple[Strength, Strength] = (0.9, 0.999)
    """Decay of adamw's first and second moment."""
    weight_decay: float = Field(1e-5, ge=0)
    """Weight decay; biases, norms and the online classifier have none."""
    trust_coefficient: float = Field(0.02, gt=0)
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
    max_grad_norm: float = Field(0, ge=0)
    """Largest norm of the gradient, without the online classifier's, which is not scaled; 0: no clipping."""


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
            members[role_of(name), parameter.ndim <= 1].append(parameter)
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


def role_of(name: str) -> str:
    """The role of a parameter's group, by its dotted name."""
    for part in name.split("."):
        if part == "backbone":
            break
        if part == "classifier":
            return "classifier"
        if part.startswith("transformer"):
            return "transformer"
    return "main"


def build_optimizer(groups: list[dict[str, Any]], settings: OptimSettings) -> torch.optim.Optimizer:
    """The optimizer that the settings name, over groups from `parameter_groups`."""
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
    if settings.name == "sgd":
        return SGD(groups, lr=settings.lr, momentum=settings.momentum)
    return LARS(
        groups,
        lr=settings.lr,
        momentum=settings.momentum,
        trust_coefficient=settings.trust_coefficient,
        clip_lr=settings.clip_lr,
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
