"""`all4one verify-resume`: checks that a run that was killed and resumed equals an uninterrupted run bit for bit."""

import contextlib
import random
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_pipelines.console import plain_console
from data_pipelines.devices import count_gpus
from data_pipelines.errors import UserError
from data_pipelines.progress import ProgressBars
from launch.local.rank_processes import module_command
from launch.local.runs import check
from trainer.checkpoints.format import Snapshot
from trainer.checkpoints.store import CheckpointStore
from trainer.config.schema import load_config
from trainer.runs.records import read_ledger, read_records
from trainer.runs.run_folder import RunFolder

LOOK_SECONDS = 0.1
STARTUP_LIMIT = 600.0  # seconds without a new step after which an attempt counts as stuck


def verify(recipe: str, overrides: Sequence[str], *, kills: int, nproc: int, seed: int | None) -> int:
    """Train a recipe twice on `nproc` processes. The second run is killed `kills` times by SIGKILL and resumed.

    Kills come at random steps plus a random part of a second. They may hit start-up, evaluation and checkpoint writes.
    Compares weights, EMA encoders, buffers, queue, optimizer state and all metrics that do not depend on the clock.

    Returns 0 if all are equal, otherwise 1.
    """
    seed = secrets.randbelow(2**31) if seed is None else seed
    console = plain_console()
    with tempfile.TemporaryDirectory(prefix="all4one-verify-") as folder:
        common = [*overrides, f"run.folder={folder}", "metrics.log_every=1"]
        config = load_config(recipe, common)
        check(config, nproc, new_runs=2)
        if count_gpus() and not config.train.deterministic:
            console.print("on GPUs the runs may differ by rounding: train.deterministic=true prevents that")
        console.print(f"seed of the kills: {seed}")
        console.print(f"training {recipe} without interruption, then again with {kills} kills")
        bars = ProgressBars(visible=True)
        straight = _Job(RunFolder(Path(folder) / "straight"), recipe, common, nproc, bars)
        straight.start()
        straight.finish()
        total = straight.steps()
        # Two runs may find the cores in different use. Another number of threads changes the last bits.
        same = [*common, f"parallel.torch_threads={straight.threads()}"]
        killed = _Job(RunFolder(Path(folder) / "killed"), recipe, same, nproc, bars)
        random_times = random.Random(seed)
        done = 0
        for step in sorted(random_times.randrange(total) for _ in range(kills)):
            killed.start()
            killed.wait_for_step(step)
            time.sleep(random_times.random())
            if killed.ended():
                break
            killed.kill()
            done += 1
            console.print(f"killed after step {killed.steps()} of {total}")
        if done == 0:
            raise UserError(
                f"the run of {total} steps ended before it could be killed",
                fix="increase train.epochs",
            )
        killed.start()
        killed.finish()
        console.print(
            f"killed {done} of {kills} times"
            + ("" if done == kills else ": the run ended before the last kill")
        )
        return compare(straight.run, killed.run, console)


@dataclass
class _Job:
    run: RunFolder
    recipe: str
    overrides: list[str]
    nproc: int
    bars: ProgressBars
    process: psutil.Popen | None = None

    def start(self) -> None:
        if self.run.config.is_file():
            arguments = ["resume", str(self.run.path)]
        else:
            arguments = ["train", self.recipe, *self.overrides, f"run.name={self.run.path.name}"]
        command = module_command("launch.cli", *arguments, "--nproc", str(self.nproc))
        self.run.path.parent.mkdir(parents=True, exist_ok=True)
        with self._output().open("ab") as output:
            self.process = psutil.Popen(command, stdout=output, stderr=output)

    def _output(self) -> Path:
        return self.run.path.with_suffix(".log")

    def threads(self) -> int:
        """Return the number of threads of torch in each process of the run."""
        return next(int(r["torch_threads"]) for r in read_ledger(self.run.ledger) if r["event"] == "ready")

    def steps(self) -> int:
        return max((r["step"] for r in read_records(self.run.metrics) if r.get("kind") == "train"), default=0)

    @contextlib.contextmanager
    def _progress(self, *, print_last: bool = False) -> Iterator[Callable[[int], None]]:
        """Show the steps of the run during a block. Yields a function that takes the number of steps done."""
        name, total = f"run `{self.run.path.name}`", None
        task = self.bars.start(name, None, unit="step")

        def show(done: int) -> None:
            nonlocal total
            total = total or self._total_steps()
            self.bars.show(task, done, "", lambda: f"{name}: step {done}/{total or '?'}", total=total)

        try:
            yield show
        finally:
            self.bars.stop(task)
        if print_last:
            self.bars.say_last(task)

    def _total_steps(self) -> int | None:
        ready = (record for record in read_ledger(self.run.ledger) if record["event"] == "ready")
        return next((record["total_steps"] for record in ready), None)

    def ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + STARTUP_LIMIT
        with self._progress() as show:
            while (done := self.steps()) < step and not self.ended():
                if time.monotonic() > deadline:
                    self.kill()
                    raise UserError(
                        f"step {step} was not reached in {STARTUP_LIMIT:.0f} s", where=self.run.path
                    )
                show(done)
                time.sleep(0.01)
        if self.ended() and self.steps() < step:
            self.finish()

    def kill(self) -> None:
        assert self.process is not None
        family = [self.process, *self.process.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=30)

    def finish(self) -> None:
        assert self.process is not None
        with self._progress(print_last=True) as show:
            while not self.ended():
                show(self.steps())
                time.sleep(LOOK_SECONDS)
            show(self.steps())
        if self.process.wait() != 0:
            output = self._output().read_text(errors="replace")
            raise UserError(
                f"training ended with code {self.process.returncode}:\n{output[-2000:]}", where=self.run.path
            )


def compare(straight: RunFolder, killed: RunFolder, console: Console) -> int:
    """Compare the newest checkpoints and all metrics of two runs, and print a table. Returns 0 if all are equal."""
    before, after = _newest(straight), _newest(killed)
    table = Table("what", "tensors or records", "different")
    differences = 0
    for name, left, right in (
        ("weights, EMA encoders, buffers, queue", before.model, after.model),
        ("optimizer", before.optimizer, after.optimizer),
    ):
        different = [key for key in {*left, *right} if not _same(left.get(key), right.get(key))]
        differences += len(different)
        table.add_row(name, str(len(left)), ", ".join(sorted(different)[:5]) or "none")
    left_records, right_records = _records(straight), _records(killed)
    different_records = sum(a != b for a, b in zip(left_records, right_records, strict=False))
    different_records += abs(len(left_records) - len(right_records))
    differences += different_records
    table.add_row("metrics", str(len(left_records)), str(different_records or "none"))
    console.print(table)
    attempts = RunFolder(killed.path).attempts()
    console.print(
        Text.assemble(
            f"step {after.step}, {attempts} attempts: ",
            ("NOT equal", "red") if differences else "bitwise equal",
        )
    )
    return int(differences > 0)


def _newest(run: RunFolder) -> Snapshot:
    loaded = CheckpointStore(run.checkpoints).load_newest()
    if loaded is None:
        raise UserError("has no complete checkpoint", where=run.checkpoints)
    return loaded.snapshot


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    if a is None or b is None or a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8))


def _records(run: RunFolder) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "time"} for record in read_records(run.metrics)]
