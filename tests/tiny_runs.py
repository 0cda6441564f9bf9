"""Real runs of the command on digits: small enough to train within seconds."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from commands import Command, Result, run
from torch import Tensor

from trainer.checkpoints.store import CheckpointStore
from trainer.runs.records import read_records
from trainer.runs.run_folder import RunFolder

STEPS = 14
TINY = (
    "backbone.stem=half",
    "backbone.width=8",
    "method.projector_hidden=32",
    "method.predictor_hidden=32",
    "method.embedding_dim=16",
    "method.queue.size=200",
    "train.global_batch=64",
    f"train.max_steps={STEPS}",
    "optim.warmup_epochs=0.2",
    "checkpoint.every_steps=4",
    "eval.every_epochs=1",
    "metrics.log_every=1",
    "metrics.health_every=7",
    "metrics.tensorboard=false",
    "train.precision=fp32",
    "parallel.torch_threads=1",
    "method.feature_scope=global",
    "method.transformer_dropout=0",
)
NO_EVALUATION = "eval.every_epochs=0"
"""For runs whose metrics no test reads: an evaluation costs as much as several steps."""


class Runs:
    """Trains tiny runs in one folder."""

    def __init__(self, folder: Path, digits: Path) -> None:
        self.folder, self.digits = folder, digits
        self.common = (
            "digits_demo",
            *TINY,
            f"data.train={digits}/train",
            f"data.validation={digits}/validation",
            f"run.folder={folder}",
        )

    def path(self, name: str) -> RunFolder:
        return RunFolder(self.folder / name)

    def arguments(self, name: str, *overrides: str) -> tuple[str, ...]:
        return ("train", *self.common, f"run.name={name}", *overrides)

    def train(self, name: str, *overrides: str, nproc: int = 2) -> Result:
        return run(*self.arguments(name, *overrides), "--nproc", nproc)

    def resume(self, name: str, *overrides: str, nproc: int = 2) -> Result:
        return run("resume", self.folder / name, *overrides, "--nproc", nproc)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Everything that the newest checkpoint holds."""
        loaded = CheckpointStore(self.path(name).checkpoints).load_newest()
        assert loaded is not None
        optimizer = {f"optimizer/{key}": value for key, value in loaded.snapshot.optimizer.items()}
        return loaded.snapshot.model | optimizer

    def assert_same(self, left: str, right: str) -> None:
        """Every tensor and every metric of two runs is equal."""
        a, b = self.tensors(left), self.tensors(right)
        assert a.keys() == b.keys()
        assert not [name for name in a if not a[name].equal(b[name])]
        assert self.metrics(left) == self.metrics(right)

    def metrics(self, name: str) -> list[dict[str, Any]]:
        """Records without what depends on the clock."""
        return [{k: v for k, v in r.items() if k != "time"} for r in read_records(self.path(name).metrics)]

    def start(self, *arguments: object) -> Command:
        """A command in the background."""
        return Command(*arguments)

    def wait_for_step(self, name: str, step: int, process: Command) -> None:
        """Return once a run has logged a step."""
        deadline = time.monotonic() + 120
        while (
            max((r["step"] for r in read_records(self.path(name).metrics) if r["kind"] == "train"), default=0)
            < step
        ):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def kill(self, process: Command) -> None:
        """Kill a command of `start` and all of its processes at once."""
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)

    def ledger(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path(name).ledger.read_text().splitlines()]
