"""Tiny runs of several processes, of which rank 1 has a fault."""

from pathlib import Path

import pytest
from tiny_runs import Runs

from launch.local.processes import launch
from trainer.config.schema import load_config
from trainer.runs.run_folder import RunFolder, create_run

TESTS = Path(__file__).resolve().parent


class Poisoned:
    """Trains tiny runs whose rank 1 has a fault."""

    def __init__(self, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs, self.monkeypatch = runs, monkeypatch
        monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=":")

    def train(self, name: str, *overrides: str, nproc: int = 2, **fault: object) -> tuple[int, RunFolder]:
        config = load_config(
            self.runs.common[0],
            [*self.runs.common[1:], f"run.name={name}", "eval.every_epochs=0", *overrides],
        )
        run = create_run(config, name)
        return self.go_on(run, nproc=nproc, **fault), run

    def go_on(self, run: RunFolder, *, nproc: int = 2, **fault: object) -> int:
        with self.monkeypatch.context() as environment:
            for kind, value in fault.items():
                environment.setenv(f"POISON_{kind.upper()}", str(value))
            return launch("poisoned_worker", [str(run.path), str(run.logs)], nproc=nproc, logs=run.logs)
