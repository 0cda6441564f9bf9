"""The learning rate of every step."""

import math
from dataclasses import dataclass

import torch

from data_pipelines.errors import UserError
from trainer.engine.optimizers import OptimSettings


@dataclass(frozen=True)
class Schedule:
    """Learning rate of every step: linear warm-up, then a cosine to 0 at `total_steps` (arXiv 1608.03983)."""

    warmup_start_lr: float
    warmup_steps: int
    total_steps: int
    peaks_in_warmup: bool = False
    """Whether the last step of the warm-up has the peak rate already. If not, the first step after it does."""

    @classmethod
    def from_settings(
        cls, settings: OptimSettings, steps_per_epoch: int, epochs: int, max_steps: int = 0
    ) -> "Schedule":
        """Build the schedule of a run.

        Args:
            settings: the warm-up.
            steps_per_epoch: steps of an epoch.
            epochs: epochs of the whole run.
            max_steps: step at which the run ends earlier, even during the warm-up. 0: none.

        Raises:
            UserError: the warm-up is longer than the whole run.
        """
        warmup_steps, total_steps = round(settings.warmup_epochs * steps_per_epoch), epochs * steps_per_epoch
        if warmup_steps > total_steps:
            raise UserError(
                f"the warm-up of {settings.warmup_epochs:g} epochs exceeds the run of {epochs} epochs",
                where="optim.warmup_epochs",
                fix=f"set optim.warmup_epochs to {epochs / 10:g}, or train longer",
            )
        return cls(
            settings.warmup_start_lr,
            warmup_steps,
            min(total_steps, max_steps or total_steps),
            settings.peak_lr_at == "end_of_warmup",
        )

    def lr(self, base_lr: float, step: int) -> float:
        """Return the learning rate of update number `step`, counted from 0, for a group with peak rate `base_lr`."""
        if step < self.warmup_steps:
            start = min(self.warmup_start_lr, base_lr)
            rise = max(self.warmup_steps - 1, 1) if self.peaks_in_warmup else self.warmup_steps
            return start + (base_lr - start) * step / rise
        if step >= self.total_steps:
            return 0.0
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return base_lr * (1 + math.cos(math.pi * progress)) / 2

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set the learning rate of every group for update number `step`."""
        for group in optimizer.param_groups:
            group["lr"] = self.lr(group["base_lr"], step)
