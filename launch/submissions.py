"""The jobs that a run was submitted as, newest last. Light: the commands that look at them load no torch."""

import time
from pathlib import Path

from data_pipelines.errors import UserError
from trainer.run import RunFolder, append_record, read_records


class Submissions:
    """Jobs of one run. The machine that submits writes them, never a rank."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self.folder = run.path / "slurm"
        """What submitit writes: scripts, pickles, and what SLURM says of a job that does not come up."""

    @property
    def _file(self) -> Path:
        return self.folder / "jobs.jsonl"

    def note(self, number: str, nodes: int, tasks: int) -> None:
        """Add a job with its machines and the processes on each."""
        record = {"job": number, "time": round(time.time(), 3), "nodes": nodes, "tasks": tasks}
        append_record(self._file, record)

    def newest(self) -> str | None:
        """Number of the job that was submitted last; None: the run was never submitted."""
        records = read_records(self._file)
        return str(records[-1]["job"]) if records else None

    def required(self) -> str:
        """The same. Raises a UserError where the run was never submitted."""
        if (number := self.newest()) is None:
            raise UserError("this run was not submitted to SLURM", where=self._run.path)
        return number
