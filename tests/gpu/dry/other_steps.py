"""Extracts features, copies a checkpoint and compares the ranks on a GPU that does not exist; prints the records as
JSON."""

import gc
import json
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import torch
from dry_cases import CLASSES, WORLD_SIZE, config_of

from data_pipelines.loading.loaders import EvalBatch, EvalLoader
from trainer.checkpoints.host_copies import clone_to_host
from trainer.evaluation.features import BATCH, extract
from trainer.profiling.dry_run.fake_device import fake_device
from trainer.profiling.dry_run.observer import Observer
from trainer.profiling.dry_run.record import StepRecord
from trainer.profiling.dry_run.step import STEPS_PER_EPOCH
from trainer.runs.components import build_engine, build_method

CASE = "ResNet-50"
SIZE = 224


def evaluation() -> StepRecord:
    """The features of one batch for both backbones, the pixels of which are already there."""
    with fake_device(WORLD_SIZE) as device, Observer() as observer:
        backbone = build_method(config_of(CASE), CLASSES, device).backbone

        class Loader:
            def __len__(self) -> int:
                return 1

            def __iter__(self) -> Iterator[EvalBatch]:
                pixels = torch.empty(BATCH, SIZE, SIZE, 3, device=device).permute(0, 3, 1, 2)
                numbers = torch.empty(BATCH, dtype=torch.int64, device=device)
                yield EvalBatch(pixels, numbers, numbers.clone())

        gc.collect()
        observer.begin()
        extract({"online": backbone}, cast(EvalLoader, Loader()))
        observer.on = False
        return observer.record


def checkpoint() -> tuple[StepRecord, int]:
    """The copies of a checkpoint, and the bytes of its tensors on the device."""
    config = config_of(CASE)
    with fake_device(WORLD_SIZE) as device, Observer() as observer:
        engine = build_engine(config, build_method(config, CLASSES, device), STEPS_PER_EPOCH, WORLD_SIZE)
        gc.collect()
        observer.begin()
        model, optimizer = engine.state()
        clone_to_host(model), clone_to_host(optimizer)
        observer.on = False
        state = [t for t in (*model.values(), *optimizer.values()) if t.is_cuda]
        return observer.record, sum(t.numel() * t.element_size() for t in state)


def comparison() -> StepRecord:
    """The second comparison of the ranks' state, and its result."""
    config = config_of(CASE)
    with fake_device(WORLD_SIZE) as device, Observer() as observer:
        engine = build_engine(config, build_method(config, CLASSES, device), STEPS_PER_EPOCH, WORLD_SIZE)
        for parameter in engine.method.parameters():
            if parameter.requires_grad:  # what the first update makes
                engine.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        engine.compare_replicas()
        gc.collect()
        observer.begin()
        engine.compare_replicas().difference()
        observer.on = False
        return observer.record


def main() -> int:
    record, size = checkpoint()
    found = SimpleNamespace(
        evaluation=evaluation().as_json(),
        checkpoint=record.as_json(),
        comparison=comparison().as_json(),
        state_bytes=size,
    )
    print(json.dumps(cast(dict[str, Any], vars(found))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
