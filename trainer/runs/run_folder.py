"""A run's folder and its contents.

config.yaml      the resolved configuration
metrics.jsonl    one record for each logged step and evaluation
metrics.csv      the same as a table, if the settings ask for it
ledger.jsonl     one record for each attempt's start and end
quarantine.jsonl samples that could not be read
rank_times.json  how long each rank computes, see trainer/runs/rank_times.py
checkpoints/     see trainer/checkpoints/format.py
tensorboard/     event files
wandb/           files of Weights & Biases and a record of what was sent, if the settings ask for it
mlflow.json      record of what was sent to MLflow, if the settings ask for it
trackio.json     record of what was sent to Trackio, if the settings ask for it
output.log       output of the process that trained the run beside others, see launch/local/side_by_side.py
logs/            output of each attempt's ranks, and stacks of ranks that stalled
slurm/           scripts and jobs, if the run was submitted
lock             held by the attempt that trains, see trainer/runs/run_lock.py

The commands that evaluate and show a run add eval.json, study_eval.json and report.html.

Light to import: commands that only look at runs load no torch.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.errors import UserError
from data_pipelines.files import write_whole
from data_pipelines.formatting import quoted
from data_pipelines.yaml_reader import read_yaml
from data_pipelines.yaml_writer import dump_yaml
from trainer.runs.end_reasons import EndReason
from trainer.runs.records import append_record, read_records

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
    def rank_times(self) -> Path:
        """How long each rank computes by itself."""
        return self.path / "rank_times.json"

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
    def mlflow(self) -> Path:
        """Record of what was sent to MLflow."""
        return self.path / "mlflow.json"

    @property
    def trackio(self) -> Path:
        """Record of what was sent to Trackio."""
        return self.path / "trackio.json"

    @property
    def logs(self) -> Path:
        """Folder of the processes' output."""
        return self.path / "logs"

    @property
    def pruned(self) -> Path:
        """File that tells where a search has stopped this run, because it had fallen behind."""
        return self.path / "pruned.json"

    def stall_dump(self, attempt: int, rank: int) -> Path:
        """File with the stacks of a rank that stalled in an attempt."""
        return self.logs / f"stall_{attempt}_rank_{rank}.txt"

    def collective_trace(self, attempt: int, rank: int) -> Path:
        """File with torch's trace of the last collectives of a rank that stalled in an attempt."""
        return self.logs / f"collectives_{attempt}_rank_{rank}.json"

    def read_config(self) -> "Config":
        """Read the configuration of the run.

        Raises:
            UserError: the file is damaged, missing or holds a setting that is not valid.
        """
        from trainer.config.schema import parse

        return parse(read_yaml(self.config, fix="restore the file from a backup"), where=str(self.config))

    def write_config(self, config: "Config") -> None:
        """Replace the configuration atomically."""
        from trainer.config.schema import dump

        write_whole(self.config, dump_yaml(dump(config)).encode())

    def attempts(self) -> int:
        """Return the number of attempts that have begun."""
        return sum(record.get("event") == "start" for record in read_records(self.ledger))

    def is_finished(self) -> bool:
        """Whether an attempt reached the last step."""
        return any(
            r.get("event") == "end" and r.get("reason") == EndReason.FINISHED
            for r in read_records(self.ledger)
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
        another = "choose another folder with run.name=NAME"
        if run.config.exists():
            fix = f"resume it with `all4one resume {quoted(run.path)}`, or {another}"
            raise UserError("the run's folder is not empty", where=run.path, fix=fix)
        raise UserError(
            "this is where the run would be, and it holds other files", where=run.path, fix=another
        )
    try:
        run.logs.mkdir(parents=True)
        run.write_config(config.with_absolute_paths())  # a resume may begin in another folder
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
