"""`launch.local.worker` with a fault on rank 1, which the environment names.

POISON_BATCHES=6-12   batches of these positions in the order are NaN
POISON_GRADIENT=9     this step's gradient of one parameter is infinite
POISON_KILL=11        the process is killed before this step
POISON_FLIP=WEIGHTS:9 before this step, one bit of this kind of state is flipped

As a program it starts the ranks: poisoned_worker.py RUN LOGS NPROC
"""

import math
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from data_pipelines.loading.loaders import TrainLoader
from data_pipelines.loading.prefetching_batches import Batch
from launch.local import worker
from launch.local.processes import launch
from trainer.engine.deepspeed_engine import Engine
from trainer.engine.replicas import StateKind, replicas_of

FIRST, LAST = map(int, os.environ.get("POISON_BATCHES", "1-0").split("-"))
GRADIENT, KILL = (int(os.environ.get(f"POISON_{name}", -1)) for name in ("GRADIENT", "KILL"))
FLIPPED, FLIPPED_AT = os.environ.get("POISON_FLIP", ":-1").split(":")
batches, step = TrainLoader.batches, Engine.step


def poisoned_batches(self: TrainLoader, start_step: int) -> Iterator[Batch]:
    for position, batch in enumerate(batches(self, start_step), start_step):
        if FIRST <= position <= LAST:
            batch.views[0].fill_(math.nan)
        yield batch


def flip_a_bit(engine: Engine) -> None:
    """Flip a high bit of the mantissa of one value. In the queue it is a value of the newest key."""
    state = replicas_of(engine.method, engine._layout.replicated_state())[StateKind[FLIPPED]]
    tensor = next(t.detach() for t in state.values() if t.dtype is torch.float32)
    queue = engine.method.queue
    first = int(queue.head) - 1 if FLIPPED == "QUEUE" and queue is not None else 0
    tensor[(first, *[0] * (tensor.ndim - 1))].view(torch.int32).bitwise_xor_(1 << 20)


def poisoned_step(self: Engine, number: int, given: list[Batch], **options: Any) -> object:
    if number == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == int(FLIPPED_AT):
        flip_a_bit(self)
    parameter = next(p for p in self.method.parameters() if p.requires_grad)
    hook = parameter.register_hook(lambda g: g * (math.inf if number == GRADIENT else 1))
    try:
        return step(self, number, given, **options)
    finally:
        hook.remove()


import_all = worker.import_all


def main() -> int:
    if os.environ["RANK"] == "1":
        TrainLoader.batches, Engine.step = poisoned_batches, poisoned_step  # type: ignore[method-assign, assignment]
    return worker.main()


if __name__ == "__main__":
    folder, logs, nproc = sys.argv[1:]
    sys.exit(launch("poisoned_worker", [folder, logs], nproc=int(nproc), logs=Path(logs)))
