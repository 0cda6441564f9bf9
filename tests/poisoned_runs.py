"""Tiny runs of several processes, of which rank 1 has a fault."""

import os
import sys
from pathlib import Path

from commands import Command
from tiny_runs import Runs

from trainer.config.schema import load_config
from trainer.runs.run_folder import RunFolder, create_run

WORKER = Path(__file__).resolve().with_name("poisoned_worker.py")


class Poisoned:
    """Trains tiny runs whose rank 1 has a fault."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs

    def train(self, name: str, *overrides: str, nproc: int = 2, **fault: object) -> tuple[int, RunFolder]:
        config = load_config(
            self.runs.common[0],
            [*self.runs.common[1:], f"run.name={name}", "eval.every_epochs=0", *overrides],
        )
        run = create_run(config, name)
        return self.go_on(run, nproc=nproc, **fault), run

    def go_on(self, run: RunFolder, *, nproc: int = 2, **fault: object) -> int:
        poison = {f"POISON_{kind.upper()}": str(value) for kind, value in fault.items()}
        command = Command(run.path, run.logs, nproc, env=os.environ | poison, program=WORKER)
        sys.stderr.write(command.communicate(timeout=400)[0])
        assert command.returncode is not None
        return command.returncode
