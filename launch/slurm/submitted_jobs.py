"""The jobs as which a run was submitted, newest last. Loads no torch."""

import time
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.errors import UserError
from trainer.runs.records import append_record, read_records
from trainer.runs.run_folder import RunFolder


class Submissions:
    """Jobs of one run. The process that submits them writes the file, never a rank."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self.folder = run.path / "slurm"
        """Folder of submitit's files: scripts, pickles, and SLURM's output for a job that does not start."""

    @property
    def _file(self) -> Path:
        return self.folder / "jobs.jsonl"

    def note(self, chain: Sequence[str], nodes: int, tasks: int) -> None:
        """Record a job, or a chain of jobs, with its number of nodes and of processes per node."""
        record = {
            "job": chain[0],
            "chain": list(chain),
            "time": round(time.time(), 3),
            "nodes": nodes,
            "tasks": tasks,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        append_record(self._file, record)

    def request_cancel(self, number: str) -> None:
        """Record that the user cancels a job, so that its ranks know why they are interrupted."""
        (self.folder / f"cancel_{number}").touch()

    def is_cancelled(self, number: str) -> bool:
        """Whether the user has cancelled a job."""
        return (self.folder / f"cancel_{number}").exists()

    def newest_chain(self) -> list[str]:
        """Return the numbers of the jobs that were submitted last, in their order. Empty: the run was never
        submitted."""
        records = read_records(self._file)
        return [str(number) for number in records[-1]["chain"]] if records else []

    def times(self) -> dict[str, float]:
        """Return when each job was submitted, in seconds since 1970, by its number."""
        return {
            str(number): float(record["time"])
            for record in read_records(self._file)
            if isinstance(record.get("time"), int | float)
            for number in record["chain"]
        }

    def required(self) -> list[str]:
        """Return the same as `newest_chain`. Raises a UserError if the run was never submitted."""
        if not (chain := self.newest_chain()):
            raise UserError("this run was not submitted to SLURM", where=self._run.path)
        return chain
