"""`launch.local.worker` with a fault on rank 1, which the environment names.

POISON_BATCHES=6-12   batches of these positions in the order are NaN
POISON_GRADIENT=9     this step's gradient of one parameter is infinite
POISON_KILL=11        the process is killed before this step
"""

import math
import os
import signal
from collections.abc import Iterator

from data_pipelines.loading.loaders import TrainLoader
from data_pipelines.loading.prefetching_batches import Batch
from launch.local import worker
from trainer.engine.deepspeed_engine import Engine

FIRST, LAST = map(int, os.environ.get("POISON_BATCHES", "1-0").split("-"))
GRADIENT, KILL = (int(os.environ.get(f"POISON_{name}", -1)) for name in ("GRADIENT", "KILL"))
batches, step = TrainLoader.batches, Engine.step


def poisoned_batches(self: TrainLoader, start_step: int) -> Iterator[Batch]:
    for position, batch in enumerate(batches(self, start_step), start_step):
        if FIRST <= position <= LAST:
            batch.views[0].fill_(math.nan)
        yield batch


def poisoned_step(self: Engine, number: int, given: list[Batch]) -> object:
    if number == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    parameter = next(p for p in self.method.parameters() if p.requires_grad)
    hook = parameter.register_hook(lambda g: g * (math.inf if number == GRADIENT else 1))
    try:
        return step(self, number, given)
    finally:
        hook.remove()


import_all = worker.import_all


def main() -> int:
    if os.environ["RANK"] == "1":
        TrainLoader.batches, Engine.step = poisoned_batches, poisoned_step  # type: ignore[method-assign, assignment]
    return worker.main()
