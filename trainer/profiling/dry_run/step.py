"""Runs a step of a recipe on a device that does not exist."""

import gc

import torch

from data_pipelines.loading.prefetching_batches import Batch
from trainer.config.schema import Config
from trainer.profiling.dry_run.fake_device import fake_device
from trainer.profiling.dry_run.graph_breaks import compiled_graphs
from trainer.profiling.dry_run.observer import Observer
from trainer.profiling.dry_run.record import CompiledGraphs, StepRecord
from trainer.profiling.instruments import instrument
from trainer.runs.components import build_engine, build_method, image_dtype

STEPS_PER_EPOCH = 100
"""Any number: it changes learning rates only."""
WARM_UP = 1
"""Steps before the recorded one. The first step also creates buffers and the optimizer's state."""


def dry_run(config: Config, world_size: int, num_classes: int) -> StepRecord:
    """Return what a training step of this recipe does on rank 0 of `world_size`.

    The step runs without `parallel.compile`. If that is set, the record also has the graphs of the compiled networks.

    Args:
        config: settings of the run. Its data are not opened.
        world_size: number of ranks, each with a GPU. It times `train.grad_accum_steps` divides `train.global_batch`.
        num_classes: number of classes of the labels. 0: there are no labels.

    The process must have been started in the environment of `stub_environment`.
    """
    plain = config.model_copy(update={"parallel": config.parallel.model_copy(update={"compile": False})})
    with fake_device(world_size) as device:
        record = _record(plain, world_size, num_classes, device)
    if config.parallel.compile:
        record.graphs = trace(plain, world_size, num_classes)
    return record


def trace(config: Config, world_size: int, num_classes: int) -> CompiledGraphs:
    """Return the graphs that torch.compile makes of a recipe's networks. The arguments are those of `dry_run`."""
    with fake_device(world_size) as device:
        with Observer():  # which gives the values that are read while a network is made
            method = build_method(config, num_classes, device)
        return compiled_graphs(method, _batch(config, world_size, device))


def _record(config: Config, world_size: int, num_classes: int, device: torch.device) -> StepRecord:
    with Observer() as observer:
        method = build_method(config, num_classes, device)
        engine = build_engine(config, method, STEPS_PER_EPOCH, world_size)
        instrument(engine, observer)
        for step in range(WARM_UP + 1):
            batches = [_batch(config, world_size, device) for _ in range(config.train.grad_accum_steps)]
            gc.collect()
            if step == WARM_UP:
                observer.begin()
            engine.step(step, batches)
            observer.on = False
        return observer.record


def _batch(config: Config, world_size: int, device: torch.device) -> Batch:
    """Return a micro-batch of a rank as the loaders deliver it."""
    rows = config.train.global_batch // (config.train.grad_accum_steps * world_size)
    dtype = image_dtype(config.train.precision, device)
    views = [
        torch.empty(rows, view.size, view.size, 3, dtype=dtype, device=device).permute(0, 3, 1, 2)
        for view in config.data.views
    ]
    numbers = torch.empty(rows, dtype=torch.int64, device=device)
    return Batch(views, numbers, numbers.clone())
