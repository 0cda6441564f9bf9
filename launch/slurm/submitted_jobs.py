"""The jobs that a run was submitted as, newest last. Light: the commands that look at them load no torch."""

import time
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.errors import UserError
from trainer.runs.run_folder import RunFolder, append_record, read_records


class Submissions:
    """Jobs of one run. The machine that submits writes them, never a rank."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self.folder = run.path / "slurm"
        """What submitit writes: scripts, pickles, and what SLURM says of a job that does not come up."""

    @property
    def _file(self) -> Path:
        return self.folder / "jobs.jsonl"

    def note(self, chain: Sequence[str], nodes: int, tasks: int) -> None:
        """Add a job, or a chain of jobs, with its machines and the processes on each."""
        record = {
            "job": chain[0],
            "chain": list(chain),
            "time": round(time.time(), 3),
            "nodes": nodes,
            "tasks": tasks,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        append_record(self._file, record)

    def newest_chain(self) -> list[str]:
        """Numbers of the jobs that were submitted last, in their order; empty: the run was never submitted."""
        records = read_records(self._file)
        return [str(number) for number in records[-1]["chain"]] if records else []

    def required(self) -> list[str]:
        """The same. Raises a UserError where the run was never submitted."""
        if not (chain := self.newest_chain()):
            raise UserError("this run was not submitted to SLURM", where=self._run.path)
        return chain
