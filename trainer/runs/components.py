"""The attempt at a run, the components of a run, and the method that is built from its settings."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data_pipelines.errors import UserError
from data_pipelines.loading.micro_batches import MicroBatchLoader
from data_pipelines.loading.stream_loader import StreamSet
from data_pipelines.settings import DataSettings
from data_pipelines.shards.mixed_set import open_train_shards, with_classes_of
from data_pipelines.shards.shard_set import ShardSet
from trainer.config.schema import Config
from trainer.distributed.batch_norm import synchronize_batch_norm
from trainer.distributed.collectives import world_size
from trainer.distributed.process_group import Process
from trainer.engine.deepspeed_engine import Engine
from trainer.engine.lr_schedule import Schedule
from trainer.engine.optimizers import build_optimizer, parameter_groups
from trainer.methods import Method
from trainer.networks.backbones import build_backbone
from trainer.networks.layer_norms import keep_autocast_dtype
from trainer.runs.passed_lock import PassedLock
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import RunLock

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp64": None}
IMAGES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}
"""Data type of the weights, and of the views on a CPU, by `train.precision`."""

TrainSet = ShardSet | StreamSet


@dataclass(frozen=True)
class AttemptContext:
    """An attempt from the point of view of one of its processes."""

    run: RunFolder
    config: Config
    process: Process
    number: int
    """Number of the attempt at the run, counted from 1."""
    lock: RunLock | PassedLock | None
    """Rank 0's lock on the run, or its supervisor's. None on the other ranks."""


@dataclass
class TrainingComponents:
    """The components that the training loop uses."""

    train_set: TrainSet
    validation_set: ShardSet | None
    loader: MicroBatchLoader
    engine: Engine
    total_steps: int
    initial_weights: str | None = None
    """Report on the weights read from `backbone.init`. None if none were read."""


def product_dtype(precision: str) -> torch.dtype:
    """Return the dtype of the networks' matrix products."""
    return AUTOCAST[precision] or IMAGES[precision]


def image_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the views that train. On a GPU it is that of the networks' products, so that no kernel
    casts."""
    return product_dtype(precision) if device.type == "cuda" else IMAGES[precision]


def open_train_set(settings: DataSettings) -> TrainSet:
    """Open the set that `data.train` names, or the mix of its sets. Raises a UserError as `open_train_shards` and
    `StreamSet` do."""
    return StreamSet(settings) if settings.reader == "stream" else open_train_shards(settings)


def open_validation_set(settings: DataSettings, train_set: TrainSet | None) -> ShardSet | None:
    """Open the set that `data.validation` names, restricted to `data.classes`.

    Its labels count through the classes of the training set if that is a mix or is restricted too.

    Args:
        settings: settings of the data.
        train_set: the opened training set. None: it cannot be opened.

    Raises:
        UserError: as for `ShardSet.open` and `with_classes_of`.
    """
    if settings.validation is None:
        return None
    shards = ShardSet.open(settings.validation, settings)
    return with_classes_of(shards, train_set, settings.classes) if isinstance(train_set, ShardSet) else shards


def refuse_other_set(state: dict[str, Any], train_set: TrainSet) -> None:
    """Raise a UserError if a checkpoint was made with another training set than the given one."""
    if state["data"] != train_set.fingerprint:
        raise UserError(
            "the training set is not the one that the checkpoint was made with",
            where=train_set.folder,
            fix="set data.train to the same set, or start a new run",
        )


def build_method(
    config: Config, num_classes: int, device: torch.device, *, initial: Mapping[str, Tensor] | None = None
) -> Method:
    """Build the method on its device with new weights. The weights depend only on the seed and on `initial`.

    Args:
        config: configuration of the run.
        num_classes: number of classes of the labels. 0: there are no labels.
        device: device of the method.
        initial: tensors from which the backbone starts, by its names. Every copy of the backbone is made after they
            are loaded.
    """
    torch.manual_seed(config.run.seed)
    backbone = build_backbone(config.backbone, *config.data.sizes)
    if initial is not None:
        backbone.load_state_dict(initial, strict=False)
    method = config.method.build(backbone, num_classes)
    method.autocast_dtype = AUTOCAST[config.train.precision]
    method.classifier_views = config.method.classifier_views
    method.recompute = config.backbone.activation_checkpointing
    if (
        config.backbone.activation_checkpointing
        and config.parallel.batch_norm == "global"
        and world_size() > 1
    ):
        raise UserError(
            "batch norms across processes keep their outputs, so activation checkpointing would save no memory",
            where="backbone.activation_checkpointing",
            fix="set parallel.batch_norm=rank, which changes what is learned, or "
            "backbone.activation_checkpointing=false",
        )
    if config.parallel.batch_norm == "global":
        synchronize_batch_norm(method, device, config.parallel.batch_norm_group)
    if device.type == "cuda" and method.autocast_dtype is not None:
        keep_autocast_dtype(method)
    if config.parallel.compile:
        if config.backbone.activation_checkpointing:
            raise UserError(
                "torch.compile chooses by itself what to recompute, so activation checkpointing has no effect",
                where="backbone.activation_checkpointing",
                fix="set backbone.activation_checkpointing or parallel.compile to false",
            )
        _require_compiler(device)
        method.compile_networks()
    return method.to(device, IMAGES[config.train.precision])


def build_engine(config: Config, method: Method, steps_per_epoch: int, world_size: int) -> Engine:
    """Build the optimizer, the schedule and DeepSpeed around a method on its device. Every rank calls.

    Args:
        config: configuration of the run.
        method: what `build_method` returned.
        steps_per_epoch: number of steps in an epoch.
        world_size: number of ranks.
    """
    groups = parameter_groups(
        method.named_parameters(), config.optim, config.train.global_batch, method.freeze_steps
    )
    return Engine(
        method,
        build_optimizer(groups, config.optim),
        Schedule.from_settings(config.optim, steps_per_epoch, config.train.epochs, config.train.max_steps),
        micro_batch=config.train.global_batch // (config.train.grad_accum_steps * world_size),
        accumulation=config.train.grad_accum_steps,
        max_grad_norm=config.optim.max_grad_norm,
        seed=config.run.seed,
        total_steps=total_steps(config, steps_per_epoch),
        zero=config.parallel.zero_stage,
        gradient_dtype=config.parallel.gradient_dtype,
        guard=config.guard,
        health_every=config.metrics.health_every,
    )


def total_steps(config: Config, steps_per_epoch: int) -> int:
    """Return the number of steps of the whole run."""
    steps = config.train.epochs * steps_per_epoch
    return min(steps, config.train.max_steps) if config.train.max_steps else steps


def _require_compiler(device: torch.device) -> None:
    """Raise a UserError if the compiler that torch.compile needs is missing.

    torch.compile generates C++ for a CPU. For a GPU, Triton generates launchers in C.
    """
    variable, compiler = ("CXX", "g++") if device.type == "cpu" else ("CC", "gcc")
    compiler = os.environ.get(variable, compiler)
    if shutil.which(compiler) is None:
        raise UserError(
            f"torch.compile needs the compiler {compiler}, which is not installed",
            where="parallel.compile",
            fix=f"install it, name another compiler with {variable}, or set parallel.compile=false",
        )
