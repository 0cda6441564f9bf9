"""Makes the parts of a run from its configuration: data, method, optimiser, engine."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data_pipelines.errors import UserError
from data_pipelines.loader import TrainLoader
from data_pipelines.prefetch import never
from data_pipelines.reader import share_of_cores
from data_pipelines.settings import DataSettings
from data_pipelines.shards import ShardSet
from data_pipelines.stream import StreamLoader, StreamSet
from trainer.backbones import build_backbone
from trainer.batch_norm import synchronise_batch_norm
from trainer.checkpoint import CheckpointStore
from trainer.config import Config
from trainer.distributed import Process, from_first
from trainer.engine import Engine
from trainer.initial_weights import InitialWeights, read_initial_weights
from trainer.methods import Method
from trainer.optim import Schedule, build_optimizer, parameter_groups
from trainer.parallel import world_size
from trainer.run import RunFolder

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp64": None}
IMAGES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}
"""Type of the views, and of the weights, by `train.precision`."""


TrainSet = ShardSet | StreamSet


@dataclass
class Parts:
    """What the loop drives."""

    train_set: TrainSet
    validation_set: ShardSet | None
    loader: TrainLoader | StreamLoader
    engine: Engine
    total_steps: int
    initial_weights: str | None = None
    """What was found in `backbone.init`; None where nothing was taken from it."""


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
    method.recompute = config.backbone.recompute
    if config.backbone.recompute and config.parallel.batch_norm == "global" and world_size() > 1:
        raise UserError(
            "batch norms across processes keep what they give, so that nothing would be saved",
            where="backbone.recompute",
            fix="set parallel.batch_norm=rank, which changes what is learned, or backbone.recompute=false",
        )
    if config.parallel.batch_norm == "global":
        synchronise_batch_norm(method, device, config.parallel.batch_norm_group)
    if config.parallel.compile:
        if config.backbone.recompute:
            raise UserError(
                "compiled networks choose by themselves what to compute again",
                where="backbone.recompute",
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


def open_train_set(settings: DataSettings) -> TrainSet:
    """What `data.train` names. Raises UserError as `ShardSet.open` and `StreamSet` do."""
    return StreamSet(settings) if settings.reader == "stream" else ShardSet.open(settings.train, settings)


def _loader(
    train_set: TrainSet, config: Config, run: RunFolder, process: Process, give_up: Callable[[], bool]
) -> TrainLoader | StreamLoader:
    share: dict[str, Any] = {
        "seed": config.run.seed, "rank": process.rank, "world_size": process.world_size,
        "global_batch": config.train.global_batch, "accumulation": config.train.accumulation,
        "device": process.device, "dtype": IMAGES[config.train.precision], "quarantine": run.quarantine,
        "give_up": give_up,
    }  # fmt: skip
    if isinstance(train_set, StreamSet):
        return StreamLoader(train_set, config.data, **share)
    return TrainLoader(train_set, config.data, **share)


def _initial_weights(config: Config, process: Process) -> InitialWeights | None:
    """What `backbone.init` holds, read by the first rank for all."""
    if config.backbone.init is None:
        return None
    found: InitialWeights | UserError | None = None
    if process.is_first:
        try:
            found = read_initial_weights(config.backbone, config.data.views[0].size)
        except UserError as error:
            found = error
    found = from_first(found)
    if isinstance(found, UserError):
        raise found
    return found


def build(config: Config, run: RunFolder, process: Process, *, give_up: Callable[[], bool] = never) -> Parts:
    """Open the data and make everything that trains; `give_up` ends the loader's waits.

    Raises UserError for what the user can mend.
    """
    torch.set_num_threads(config.parallel.threads or share_of_cores())
    train_set = open_train_set(config.data)
    validation_set = (
        ShardSet.open(config.data.validation, config.data) if config.data.validation is not None else None
    )
    loader = _loader(train_set, config, run, process, give_up)
    total_steps = config.train.epochs * loader.steps_per_epoch
    if config.train.max_steps:
        total_steps = min(total_steps, config.train.max_steps)
    store = CheckpointStore(run.checkpoints) if process.is_first else None
    if from_first(store is not None and store.newest_state() is not None):
        # the checkpoint holds all weights
        config, initial = config.model_copy(update={"backbone": config.backbone.drawn()}), None
    else:
        initial = _initial_weights(config, process)
    method = build_method(
        config, train_set.num_classes, process.device, initial=initial.tensors if initial else None
    )
    groups = parameter_groups(method.named_parameters(), config.optim, config.train.global_batch)
    optimizer = build_optimizer(groups, config.optim)
    engine = Engine(
        method, optimizer, Schedule.from_settings(config.optim, loader.steps_per_epoch, total_steps),
        micro_batch=config.train.global_batch // (config.train.accumulation * process.world_size),
        accumulation=config.train.accumulation, clip_gradients=config.optim.clip_gradients, seed=config.run.seed,
        total_steps=total_steps, zero=config.parallel.zero, gradient_dtype=config.parallel.gradient_dtype,
        guard=config.guard, health_every=config.metrics.health_every,
    )  # fmt: skip
    return Parts(train_set, validation_set, loader, engine, total_steps, initial.report if initial else None)
