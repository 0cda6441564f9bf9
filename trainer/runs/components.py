"""What every part that works for a run needs: its attempt, its components, and the method built from its settings."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data_pipelines.errors import UserError
from data_pipelines.loading.loaders import TrainLoader
from data_pipelines.loading.stream_loader import StreamLoader, StreamSet
from data_pipelines.settings import DataSettings
from data_pipelines.shards.shard_set import ShardSet
from trainer.config.schema import Config
from trainer.distributed.batch_norm import synchronize_batch_norm
from trainer.distributed.collectives import world_size
from trainer.distributed.process_group import Process
from trainer.engine.deepspeed_engine import Engine
from trainer.methods import Method
from trainer.networks.backbones import build_backbone
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import RunLock

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp64": None}
IMAGES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}
"""Type of the views, and of the weights, by `train.precision`."""

TrainSet = ShardSet | StreamSet


@dataclass(frozen=True)
class AttemptContext:
    """An attempt as one of its processes sees it."""

    run: RunFolder
    config: Config
    process: Process
    number: int
    """From 1, rising with each attempt at the run."""
    lock: RunLock | None
    """Rank 0's hold on the run; None on the other ranks."""


@dataclass
class TrainingComponents:
    """What the loop drives."""

    train_set: TrainSet
    validation_set: ShardSet | None
    loader: TrainLoader | StreamLoader
    engine: Engine
    total_steps: int
    initial_weights: str | None = None
    """What was found in `backbone.init`; None where nothing was taken from it."""


def open_train_set(settings: DataSettings) -> TrainSet:
    """What `data.train` names. Raises UserError as `ShardSet.open` and `StreamSet` do."""
    return StreamSet(settings) if settings.reader == "stream" else ShardSet.open(settings.train, settings)


def refuse_other_set(state: dict[str, Any], train_set: TrainSet) -> None:
    """Raise a UserError where a checkpoint's state is of another training set than the one that is opened."""
    if state["data"] != train_set.fingerprint:
        raise UserError(
            "the training set is not the one that the checkpoint was made with",
            where=train_set.folder,
            fix="set data.train to the same set, or start a new run",
        )


def build_method(
    config: Config, num_classes: int, device: torch.device, *, initial: Mapping[str, Tensor] | None = None
) -> Method:
    """The method on its device, with freshly drawn weights, a function of the seed alone.

    Args:
        config: the run's.
        num_classes: of the labels; 0: there are none.
        device: where it goes.
        initial: tensors that the backbone starts from, by its names; every copy of it is made after that.
    """
    torch.manual_seed(config.run.seed)
    backbone = build_backbone(config.backbone, *config.data.sizes)
    if initial is not None:
        backbone.load_state_dict(initial, strict=False)
    method = config.method.build(backbone, num_classes)
    method.autocast_dtype = AUTOCAST[config.train.precision]
    method.recompute = config.backbone.activation_checkpointing
    if (
        config.backbone.activation_checkpointing
        and config.parallel.batch_norm == "global"
        and world_size() > 1
    ):
        raise UserError(
            "batch norms across processes keep what they give, so that nothing would be saved",
            where="backbone.activation_checkpointing",
            fix="set parallel.batch_norm=rank, which changes what is learned, or "
            "backbone.activation_checkpointing=false",
        )
    if config.parallel.batch_norm == "global":
        synchronize_batch_norm(method, device, config.parallel.batch_norm_group)
    if config.parallel.compile:
        if config.backbone.activation_checkpointing:
            raise UserError(
                "compiled networks choose by themselves what to compute again",
                where="backbone.activation_checkpointing",
                fix="set it or parallel.compile to false",
            )
        _require_compiler(device)
        method.compile_networks()
    return method.to(device, IMAGES[config.train.precision])


def _require_compiler(device: torch.device) -> None:
    """torch.compile makes C++ for a CPU, and Triton's launchers, in C, for a GPU."""
    variable, compiler = ("CXX", "g++") if device.type == "cpu" else ("CC", "gcc")
    compiler = os.environ.get(variable, compiler)
    if shutil.which(compiler) is None:
        raise UserError(
            f"torch.compile needs the compiler {compiler}, which is not there",
            where="parallel.compile",
            fix=f"install it, name another with {variable}, or set parallel.compile=false",
        )
