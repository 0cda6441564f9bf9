"""Optimizers and their parameter groups."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from data_pipelines.settings import Settings, Strength
from trainer.engine.lars import LARS
from trainer.engine.sgd import SGD

ROLES = ("main", "transformer", "classifier")


class OptimSettings(Settings):
    """The optimizer, its learning rates and weight decay."""

    first_names = {"eta": "trust_coefficient", "clip_gradients": "max_grad_norm"}

    name: Literal["lars", "adamw", "sgd"] = "lars"
    """The optimizer."""
    lr: float = Field(1.0, gt=0)
    """Learning rate at `reference_batch`. It is scaled linearly with the global batch size."""
    reference_batch: int = Field(256, ge=1)
    """Global batch size for which the learning rates are given."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of lars and sgd."""
    betas: tuple[Strength, Strength] = (0.9, 0.999)
    """Decay rates of the first and second moments of adamw."""
    weight_decay: float = Field(1e-5, ge=0)
    """Weight decay. Biases, norm layers and the online classifier have none."""
    trust_coefficient: float = Field(0.02, gt=0)
    """Trust coefficient of lars."""
    clip_lr: bool = True
    """Whether lars limits the trust ratio so that a layer's rate never exceeds the learning rate."""
    transformer_lr: float = Field(0.1, gt=0)
    """Learning rate of the centroid transformer."""
    scale_transformer_lr: bool = False
    """Whether the transformer's learning rate is also scaled with the global batch size."""
    classifier_lr: float = Field(0.1, gt=0)
    """Learning rate of the online classifier at `reference_batch`. It is scaled linearly with the global batch size."""
    warmup_epochs: float = Field(10, ge=0)
    """Length of the linear warm-up in epochs."""
    peak_lr_at: Literal["after_warmup", "end_of_warmup"] = "after_warmup"
    """Step at which the warm-up reaches the peak: the first step `after_warmup`, or the last one of the warm-up
    (`end_of_warmup`), as in the published code. The cosine begins after the warm-up in both cases."""
    warmup_start_lr: float = Field(3e-5, ge=0)
    """Learning rate of the first warm-up step, the same for every parameter group."""
    max_grad_norm: float = Field(0, ge=0)
    """Maximum gradient norm. The online classifier is neither included nor scaled. 0: no clipping."""


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    settings: OptimSettings,
    global_batch: int,
    freeze_steps: Mapping[str, int] | None = None,
) -> list[dict[str, Any]]:
    """Sort the trainable parameters into groups in a fixed order, with learning rates for this global batch size.

    Each group has `role` ("main", "transformer" or "classifier"), `exclude` (parameters with at most one dimension,
    such as biases and norm layers), `base_lr`, `lr`, `weight_decay`, `freeze_steps` and `params`. The first part of the
    dotted name that is `classifier` or starts with `transformer` decides the role. Parameters inside a `backbone` are
    always main.

    Args:
        named: the parameters by name.
        settings: learning rates and weight decay.
        global_batch: global batch size.
        freeze_steps: `Method.freeze_steps`. None: no parameter is frozen.
    """
    freeze_steps = freeze_steps or {}
    scale = global_batch / settings.reference_batch
    base_lr = {
        "main": settings.lr * scale,
        "transformer": settings.transformer_lr * (scale if settings.scale_transformer_lr else 1),
        "classifier": settings.classifier_lr * scale,
    }
    members: dict[tuple[str, bool, int], list[nn.Parameter]] = {
        (role, exclude, 0): [] for role in ROLES for exclude in (False, True)
    }
    for name, parameter in named:
        if parameter.requires_grad:
            key = role_of(name), parameter.ndim <= 1, freeze_steps.get(name, 0)
            members.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "role": role,
            "exclude": exclude,
            "base_lr": base_lr[role],
            "lr": base_lr[role],
            "weight_decay": 0.0 if exclude or role == "classifier" else settings.weight_decay,
            "freeze_steps": frozen,
        }
        for (role, exclude, frozen), parameters in members.items()
        if parameters
    ]


def role_of(name: str) -> str:
    """Return the role of a parameter's group, given its dotted name."""
    for part in name.split("."):
        if part == "backbone":
            break
        if part == "classifier":
            return "classifier"
        if part.startswith("transformer"):
            return "transformer"
    return "main"


def build_optimizer(groups: list[dict[str, Any]], settings: OptimSettings) -> torch.optim.Optimizer:
    """Build the optimizer that the settings name, over groups from `parameter_groups`.

    Its update leaves groups as they are that `freeze` has marked, their momentum and moments included.
    """
    optimizer = _build(groups, settings)
    if any(group["freeze_steps"] for group in groups):
        _skip_frozen_groups(optimizer)
    return optimizer


def freeze(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Mark the groups that update number `step` (from 0) must leave as they are."""
    for group in optimizer.param_groups:
        group["frozen"] = step < group.get("freeze_steps", 0)


def _skip_frozen_groups(optimizer: torch.optim.Optimizer) -> None:
    """Hide frozen groups from each call of `step`, also if the call is for one group only, as ZeRO's are."""
    hidden: list[list[dict[str, Any]]] = []

    def before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        hidden.append(optimizer.param_groups)
        optimizer.param_groups = [group for group in optimizer.param_groups if not group.get("frozen")]

    def after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        optimizer.param_groups = hidden.pop()

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def _build(groups: list[dict[str, Any]], settings: OptimSettings) -> torch.optim.Optimizer:
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
