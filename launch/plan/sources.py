"""Chooses each number of a plan: an option of the command, else an earlier run, else the recipe or an estimate."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from launch.local.runs import may_shrink
from launch.plan.assumptions import OPTIONS, Assumptions
from launch.plan.estimates import (
    ESTIMATES,
    FIRST_NODE_LOSS_IN_PLACE,
    IMAGES_PER_EPOCH,
    NODE_LOSS_IN_PLACE,
    NODE_LOSS_REQUEUE,
)
from launch.plan.measured_times import measured_times
from trainer.config.schema import Config
from trainer.runs.components import open_train_set, total_steps
from trainer.runs.run_folder import RunFolder


@dataclass(frozen=True)
class Sourced:
    """A number and where it comes from."""

    value: float
    source: str
    is_estimate: bool = False
    """Whether it was measured or published elsewhere, or only assumed."""


def collect(
    config: Config, given: Mapping[str, float], run: Path | None
) -> tuple[Assumptions, dict[str, Sourced]]:
    """Return the numbers of a plan, and where each comes from.

    Args:
        config: the configuration that is planned.
        given: numbers from options, by the name of the field of `Assumptions`.
        run: folder of an earlier run whose times count. None: there is none.

    Raises:
        UserError: a number is out of its range, or the run tells nothing.
    """
    measured = measured_times(RunFolder(run)) if run is not None else {}
    found = {
        name: Sourced(one.value, f"measured in {run}, {one.count} {one.what}")
        for name, one in measured.items()
    }
    images = found.pop("images", None) or _images(config)
    per_epoch = max(1, int(images.value) // config.train.global_batch)
    in_place = config.slurm.recovery == "in_place"
    lost = NODE_LOSS_IN_PLACE if in_place else NODE_LOSS_REQUEUE
    first_lost = FIRST_NODE_LOSS_IN_PLACE if in_place else NODE_LOSS_REQUEUE
    defaults = {
        "nodes": Sourced(config.slurm.nodes, "slurm.nodes"),
        "spares": Sourced(config.slurm.spares, "slurm.spares"),
        "detection_seconds": Sourced(lost.value, lost.source, is_estimate=True),
        "first_detection_seconds": Sourced(first_lost.value, first_lost.source, is_estimate=True),
        "steps": Sourced(total_steps(config, per_epoch), _length(config, images), images.is_estimate),
        "every_steps": Sourced(
            config.checkpoint.interval(per_epoch),
            "checkpoint.every_steps"
            if config.checkpoint.every_steps
            else f"checkpoint.every_epochs, {images.source}",
            images.is_estimate and not config.checkpoint.every_steps,
        ),
        "time_limit_seconds": Sourced(
            60.0 * config.slurm.minutes - config.slurm.signal_lead_seconds,
            "slurm.time - slurm.signal_lead_seconds",
        ),
        **{name: Sourced(one.value, one.source, is_estimate=True) for name, one in ESTIMATES.items()},
    }
    if config.parallel.zero_stage and config.checkpoint.replicate_every:
        defaults["copies_every"] = Sourced(config.checkpoint.replicate_every, "checkpoint.replicate_every")
    options = {name: Sourced(value, OPTIONS[name]) for name, value in given.items()}
    chosen = defaults | found | options
    if minutes := config.checkpoint.every_minutes:
        pace = chosen["step_seconds"].value + chosen["evaluation_seconds"].value
        bound = max(1, int(60 * minutes / pace)) if pace > 0 else 1
        if not chosen["every_steps"].value or bound < chosen["every_steps"].value:
            chosen["every_steps"] = Sourced(bound, "checkpoint.every_minutes")
    numbers: dict[str, Any] = {
        name: int(one.value) if name in _COUNTS else one.value for name, one in chosen.items()
    }
    assumptions = Assumptions(
        **numbers,
        ranks_per_node=config.slurm.tasks,
        recovers_in_place=in_place,
        survivors_save=survivors_save(config),
        shrinks_to=shrinks_to(config, numbers["nodes"]) if in_place else (),
    )
    return assumptions, chosen


_COUNTS = ("nodes", "spares", "steps", "every_steps", "copies_every")


def survivors_save(config: Config) -> bool:
    """Whether the ranks that are left can save a step, as `trainer/survivors.py` decides.

    At ZeRO stage 0 each has the whole state. At stages 1 and 2 they join the copies that they keep for each other.
    """
    return config.parallel.zero_stage == 0 or config.checkpoint.replicate_every > 0


def shrinks_to(config: Config, nodes: int) -> tuple[int, ...]:
    """Return the smaller numbers of nodes with which a run of so many may go on if one is lost."""
    return tuple(left for left in range(1, nodes) if may_shrink(config, left * config.slurm.tasks))


def _images(config: Config) -> Sourced:
    """Return the number of images of an epoch: those of the set if it is here."""
    try:
        return Sourced(len(open_train_set(config.data)), "images of data.train")
    except (UserError, OSError):
        return Sourced(IMAGES_PER_EPOCH.value, IMAGES_PER_EPOCH.source, is_estimate=True)


def _length(config: Config, images: Sourced) -> str:
    if config.train.max_steps:
        return "train.max_steps and train.epochs"
    return f"train.epochs, {images.source}"
