"""Builds the components of a run from its configuration: data, method, optimizer, engine."""

from collections.abc import Callable
from typing import Any

import torch

from data_pipelines.errors import UserError
from data_pipelines.loading.loaders import TrainLoader
from data_pipelines.loading.micro_batches import MicroBatchLoader
from data_pipelines.loading.stream_loader import StreamLoader, StreamSet
from data_pipelines.prefetch import never
from trainer.checkpoints.store import CheckpointStore
from trainer.config.schema import Config
from trainer.distributed.objects import broadcast_object, broadcast_tensors
from trainer.distributed.process_group import Process
from trainer.networks.initial_weights import InitialWeights, read_initial_weights
from trainer.runs.components import (
    TrainingComponents,
    TrainSet,
    build_engine,
    build_method,
    image_dtype,
    open_train_set,
    open_validation_set,
    total_steps,
)
from trainer.runs.cpu_threads import choose_threads
from trainer.runs.determinism import apply_determinism
from trainer.runs.run_folder import RunFolder


def _loader(
    train_set: TrainSet, config: Config, run: RunFolder, process: Process, give_up: Callable[[], bool]
) -> MicroBatchLoader:
    common: dict[str, Any] = {
        "seed": config.run.seed,
        "rank": process.rank,
        "world_size": process.world_size,
        "global_batch": config.train.global_batch,
        "accumulation": config.train.grad_accum_steps,
        "device": process.device,
        "dtype": image_dtype(config.train.precision, process.device),
        "quarantine": run.quarantine,
        "give_up": give_up,
    }
    if isinstance(train_set, StreamSet):
        return StreamLoader(train_set, config.data, **common)
    return TrainLoader(train_set, config.data, **common)


def _initial_weights(config: Config, process: Process) -> InitialWeights | None:
    """Return the weights in `backbone.init`, or None if it is not set. Rank 0 reads them for all ranks."""
    if config.backbone.init is None:
        return None
    found: InitialWeights | UserError | None = None
    if process.is_first:
        try:
            found = read_initial_weights(config.backbone, config.data.views[0].size)
        except UserError as error:
            found = error
    report = broadcast_object(found.report if isinstance(found, InitialWeights) else found)
    if isinstance(report, UserError):
        raise report
    return InitialWeights(
        broadcast_tensors(found.tensors if isinstance(found, InitialWeights) else {}), report
    )


def build(
    config: Config, run: RunFolder, process: Process, *, give_up: Callable[[], bool] = never
) -> TrainingComponents:
    """Open the data and build everything that trains. The loader stops waiting when `give_up` returns true.

    Raises:
        UserError: something that the user can fix.
    """
    apply_determinism(config, process.device)
    torch.set_num_threads(choose_threads(config, run, process))
    train_set = open_train_set(config.data)
    validation_set = open_validation_set(config.data, train_set)
    loader = _loader(train_set, config, run, process, give_up)
    store = CheckpointStore(run.checkpoints) if process.is_first else None
    if broadcast_object(store is not None and store.newest_state() is not None):
        # the checkpoint holds all weights
        config, initial = config.model_copy(update={"backbone": config.backbone.drawn()}), None
    else:
        initial = _initial_weights(config, process)
    method = build_method(
        config, train_set.num_classes, process.device, initial=initial.tensors if initial else None
    )
    engine = build_engine(config, method, loader.steps_per_epoch, process.world_size)
    return TrainingComponents(
        train_set,
        validation_set,
        loader,
        engine,
        total_steps(config, loader.steps_per_epoch),
        initial.report if initial else None,
    )
