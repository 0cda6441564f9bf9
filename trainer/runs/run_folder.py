"""A run's folder and its contents.

config.yaml      the resolved configuration
metrics.jsonl    one record for each logged step and evaluation
metrics.csv      the same as a table, if the settings ask for it
ledger.jsonl     one record for each attempt's start and end
quarantine.jsonl samples that could not be read
checkpoints/     see trainer/checkpoints/format.py
tensorboard/     event files
wandb/           files of Weights & Biases and a record of what was sent, if the settings ask for it
logs/            output of each attempt's ranks (on one machine, of all ranks but 0), and stacks of ranks that stalled
slurm/           scripts and jobs, if the run was submitted
lock             held by the attempt that trains, see trainer/runs/run_lock.py

The commands that evaluate and show a run add eval.json, study_eval.json and report.html.

Light to import: commands that only look at runs load no torch.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from data_pipelines.errors import UserError
from data_pipelines.files import write_whole
from trainer.runs.end_reasons import EndReason

if TYPE_CHECKING:
    from trainer.config.schema import Config


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """Records of steps and evaluations."""
        return self.path / "metrics.jsonl"

    @property
    def csv(self) -> Path:
        """The metrics as a table."""
        return self.path / "metrics.csv"

    @property
    def ledger(self) -> Path:
        """Records of attempts."""
        return self.path / "ledger.jsonl"

    @property
    def quarantine(self) -> Path:
        """Samples that could not be read."""
        return self.path / "quarantine.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def wandb(self) -> Path:
        """Folder of Weights & Biases."""
        return self.path / "wandb"

    @property
    def logs(self) -> Path:
        """Folder of the processes' output."""
        return self.path / "logs"

    def stall_dump(self, attempt: int, rank: int) -> Path:
        """File with the stacks of a rank that stalled in an attempt."""
        return self.logs / f"stall_{attempt}_rank_{rank}.txt"

    def read_config(self) -> "Config":
        """Read the configuration of the run."""
        from trainer.config.schema import parse

        return parse(yaml.safe_load(self.config.read_text()), where=str(self.config))

    def write_config(self, config: "Config") -> None:
        """Replace the configuration atomically."""
        from trainer.config.schema import dump

        write_whole(self.config, yaml.safe_dump(dump(config), sort_keys=False).encode())

    def attempts(self) -> int:
        """Return the number of attempts that have begun."""
        return sum(record["event"] == "start" for record in read_records(self.ledger))

    def is_finished(self) -> bool:
        """Whether an attempt reached the last step."""
        return any(
            r["event"] == "end" and r["reason"] == EndReason.FINISHED for r in read_records(self.ledger)
        )

    def note(self, event: str, **facts: Any) -> None:
        """Append a record to the ledger."""
        append_record(self.ledger, {"event": event, "time": round(time.time(), 3), **facts})


def run_of(config: "Config", recipe_name: str) -> RunFolder:
    """Return the folder that a new run of a configuration would have. The folder is not created."""
    return RunFolder(config.run.folder / (config.run.name or recipe_name))


def create_run(config: "Config", recipe_name: str) -> RunFolder:
    """Create the folder of a new run with its configuration.

    Raises:
        UserError: the folder is not empty or cannot be created.
    """
    run = run_of(config, recipe_name)
    if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
        raise UserError(
            "the run's folder is not empty",
            where=run.path,
            fix=f"resume it with `all4one resume {run.path}`, or choose another folder with run.name=NAME",
        )
    try:
        run.logs.mkdir(parents=True)
        run.write_config(config)
    except OSError as error:
        raise UserError(
            f"cannot be created: {error.strerror}",
            where=run.path,
            fix="choose another folder with run.folder=FOLDER",
        ) from None
    return run


def runs_below(folder: Path) -> list[RunFolder]:
    """Return the runs in a folder, including those of sweeps, sorted by path."""
    found = sorted(p.parent for depth in ("*", "*/*") for p in folder.glob(f"{depth}/config.yaml"))
    return [RunFolder(path) for path in found]


def open_run(path: Path) -> RunFolder:
    """Return the folder of an existing run.

    Raises:
        UserError: the path is not the folder of a run.
    """
    run = RunFolder(path)
    if not run.config.is_file():
        raise UserError(
            "this is not the folder of a run: it has no config.yaml",
            where=path,
            fix="give the folder that `all4one train` printed",
        )
    return run


RENAMED_VALUES = {
    "neighbour": "neighbor",
    "neighbour_agreement": "neighbor_agreement",
    "neighbour_age": "neighbor_age",
    "neighbour_cosine": "neighbor_cosine",
    "neighbour_share": "neighbor_share",
}
"""Names of metrics in metrics.jsonl of version 0.1, with their names today."""


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read the records of a JSON-lines file, with the names of today.

    Lines that a kill or a full disk cut short are skipped.
    """
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        records.append({RENAMED_VALUES.get(key, key): value for key, value in record.items()})
    return records


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Append a record as one line. If the last line was cut short, it is ended first."""
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + json.dumps(record).encode() + b"\n")
