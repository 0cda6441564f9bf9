"""What `benchmarks/step.py` compares: the method in its engine, the same with recomputed activations, and the published
step."""

import argparse
import re
from dataclasses import dataclass
from typing import Protocol

import torch
from straight import StraightAll4One, StraightLARS
from torch import nn

from data_pipelines.loading.prefetching_batches import Batch
from trainer.engine.deepspeed_engine import Engine
from trainer.engine.lr_schedule import Schedule
from trainer.engine.optimizers import OptimSettings, build_optimizer, parameter_groups
from trainer.methods.all4one import All4One, All4OneSettings
from trainer.networks import ema
from trainer.networks.backbones import BackboneSettings, build_backbone

CLASSES, TOTAL_STEPS = 10, 1000
SCHEDULE = Schedule(warmup_start_lr=0.0, warmup_steps=0, total_steps=TOTAL_STEPS)
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """A backbone, the side of its images in pixels, and the batch."""

    backbone: str
    size: int
    batch: int

    @classmethod
    def parse(cls, text: str) -> "Case":
        """From the form `resnet18@32x64`."""
        match = re.fullmatch(r"(\w+)@(\d+)x(\d+)", text)
        if match is None:
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form resnet18@32x64")
        return cls(match[1], int(match[2]), int(match[3]))

    def __str__(self) -> str:
        return f"{self.backbone}@{self.size}x{self.batch}"

    def method(self) -> All4One:
        """The published sizes with fresh weights."""
        torch.manual_seed(0)
        backbone = build_backbone(BackboneSettings(name=self.backbone), self.size)
        return All4OneSettings().build(backbone, CLASSES)

    def data(self) -> Batch:
        """One random batch."""
        views = [torch.randn(self.batch, 3, self.size, self.size) for _ in range(2)]
        views = [view.contiguous(memory_format=torch.channels_last) for view in views]
        return Batch(views, torch.arange(self.batch) % CLASSES, torch.arange(self.batch))


class Contender(Protocol):
    """One of the two that are compared."""

    @property
    def model(self) -> nn.Module:
        """The network with `backbone` and `momentum`."""

    def step(self, number: int, batch: Batch) -> None:
        """One optimizer step."""


class Ours:
    """The method in its engine."""

    def __init__(self, case: Case, method: All4One, precision: str) -> None:
        self.model = method
        method.autocast_dtype = AUTOCAST[precision]
        groups = parameter_groups(method.named_parameters(), OptimSettings(), case.batch)
        self.engine = Engine(
            method,
            build_optimizer(groups, OptimSettings()),
            SCHEDULE,
            micro_batch=case.batch,
            accumulation=1,
            max_grad_norm=0.0,
            seed=0,
            total_steps=TOTAL_STEPS,
        )

    def step(self, number: int, batch: Batch) -> None:
        self.engine.step(number, [batch])


class OursRecomputing(Ours):
    """The method with `backbone.activation_checkpointing`."""

    def __init__(self, case: Case, method: All4One, precision: str) -> None:
        method.recompute = True
        super().__init__(case, method, precision)


class Straight:
    """The published step."""

    def __init__(self, case: Case, method: All4One, precision: str) -> None:
        self.model = StraightAll4One(method).to(memory_format=torch.channels_last)
        self.dtype = AUTOCAST[precision]
        settings = OptimSettings()
        groups = parameter_groups(self.model.named_parameters(), settings, case.batch)
        self.optimizer = StraightLARS(groups, settings.momentum, settings.trust_coefficient)

    def step(self, number: int, batch: Batch) -> None:
        SCHEDULE.apply(self.optimizer, number)
        with torch.autocast("cpu", dtype=self.dtype, enabled=self.dtype is not None):
            losses = self.model(*batch)
        losses.loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()  # no gradients are left between steps, as in ours
        self.model.update_momentum(ema.momentum_at(number, TOTAL_STEPS, self.model.settings.momentum))


KINDS: dict[str, type[Ours] | type[Straight]] = {
    "ours": Ours,
    "straight": Straight,
    "recompute": OursRecomputing,
}
