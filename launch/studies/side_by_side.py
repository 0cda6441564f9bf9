"""Trains several runs of a study at the same time on this machine, each in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data_pipelines.formatting import quoted
from launch.local.last_words import last_lines
from launch.local.processes import HANDED_ON, signals_forwarded
from launch.local.rank_processes import module_command
from launch.local.standard_files import open_log
from launch.studies.plan import Cell
from launch.studies.study_report import report
from launch.studies.study_runs import StudyRuns
from trainer.runs.run_folder import create_run

OUTPUT = "study_output.log"
"""File in the folder of a run with the output of its training."""
LOOK_SECONDS = 0.2
_ON_STOP = (
    "stopping the runs after their step or the next. The third signal ends them at once, without a checkpoint"
)


@dataclass(frozen=True)
class _Training:
    cell: Cell
    part: Mapping[str, str]
    process: "subprocess.Popen[bytes]"


class SideBySide:
    """Trains and evaluates the runs of a study, some of them at the same time.

    Args:
        runs: the runs of the study.
        nproc: processes of each run.
        parts: variables that give each run its part of this machine. Their number is that of runs at the same time.
    """

    def __init__(self, runs: StudyRuns, nproc: int, parts: Sequence[Mapping[str, str]]) -> None:
        self._runs, self._nproc, self._free = runs, nproc, list(parts)
        self._training: list[_Training] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._failed: list[Cell] = []
        self._begun = 0

    def train(self, failed: Sequence[Cell]) -> tuple[list[Cell], int]:
        """Train the unfinished runs until all are done, or a signal asks to stop.

        Args:
            failed: runs that must not be started.

        Returns the runs that failed, and the exit code if a signal asked to stop, otherwise 0.
        """
        self._failed = list(failed)
        print(f"progress of all runs: all4one status {quoted(self._runs.folder)}", flush=True)
        with signals_forwarded(self._processes, _ON_STOP) as forwarder:
            self._fill()
            while self._training:
                time.sleep(LOOK_SECONDS)
                ended = [one for one in self._training if one.process.poll() is not None]
                for one in ended:
                    self._ended(one, stopping=forwarder.first is not None)
                if ended and forwarder.first is None:
                    self._fill()
        asked = forwarder.first
        return self._failed, 0 if asked is None else 128 + HANDED_ON[signal.Signals(asked)]

    def _fill(self) -> None:
        """Start runs on the parts of this machine that are free."""
        busy = {one.cell for one in self._training}
        waiting = [cell for cell in self._runs.next_cells() if cell not in busy and cell not in self._failed]
        total = self._begun + len(waiting)
        for cell, part in zip(waiting, list(self._free), strict=False):
            self._free.remove(part)
            self._start(cell, part, total)

    def _start(self, cell: Cell, part: Mapping[str, str], total: int) -> None:
        run, asked = self._runs.runs[cell], self._runs.asked
        if not run.config.exists():
            create_run(self._runs.configs[cell], cell.name)
        self._begun += 1
        print(f"run {self._begun} of {total}: {cell.name}", flush=True)
        output = open_log(run.path / OUTPUT)
        try:
            process = subprocess.Popen(
                module_command(
                    "launch.studies.train_and_evaluate",
                    *(str(run.path), str(self._nproc), asked.evaluator, asked.backbone),
                ),
                env=os.environ | part | {"ALL4ONE_PARENT": str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,  # Ctrl-C on the terminal reaches it once, through this process
            )
        finally:
            os.close(output)
        self._processes.append(process)
        self._training.append(_Training(cell, part, process))

    def _ended(self, one: _Training, *, stopping: bool) -> None:
        """Take in the end of a run.

        Args:
            one: the run.
            stopping: whether a signal has asked all runs to stop.
        """
        self._training.remove(one)
        self._processes.remove(one.process)
        self._free.append(one.part)
        code, log = one.process.returncode, self._runs.runs[one.cell].path / OUTPUT
        if code and stopping:
            return
        if code:
            self._failed.append(one.cell)
            tail = "\n".join(f"  {line}" for line in last_lines(log))
            print(f"{one.cell.name} failed. The last lines of {log}:\n{tail}", file=sys.stderr, flush=True)
        else:
            score = self._runs.scores().get(one.cell)
            print(
                f"{one.cell.name}: finished" + (f", {score:.2f} %" if score is not None else ""), flush=True
            )
        report(self._runs)
