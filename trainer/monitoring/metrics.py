"""The metrics of a run: metrics.jsonl, and the other writers that the `metrics` settings enable.

Values that depend on the clock are under `time`. All other values of a record are the same whether or not the run was
interrupted.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.masking import masked_values
from data_pipelines.prefetch import nothing
from trainer.config.recipes import flat
from trainer.config.resume_compat import training_config
from trainer.config.schema import Config, dump
from trainer.monitoring.writers.base import Background
from trainer.monitoring.writers.csv_table import CsvTable
from trainer.monitoring.writers.mlflow import MLflow
from trainer.monitoring.writers.tensorboard import TensorBoard
from trainer.monitoring.writers.trackio import Trackio
from trainer.monitoring.writers.weights_and_biases import WeightsAndBiases
from trainer.runs.best_checkpoint import values_by_step
from trainer.runs.owned_file import OwnedFile
from trainer.runs.records import read_records
from trainer.runs.run_folder import RunFolder


def open_metrics(
    run: RunFolder, config: Config, resume_step: int, require_lock: Callable[[], None] = nothing
) -> "MetricsWriter":
    """Open the metrics of a run on rank 0, with every writer that the settings enable.

    Args:
        run: the run's folder.
        config: the run's settings.
        resume_step: number of steps that are done.
        require_lock: raises a UserError if another process has taken over the run.
    """
    wanted, name, values = config.metrics, config.run.name or run.path.name, masked_values(dump(config))
    writers = []
    if wanted.csv:
        writers.append(Background("metrics.csv", CsvTable(OwnedFile(run.csv, require_lock))))
    if wanted.tensorboard:
        board = TensorBoard(run.tensorboard, name, values, training_config(config))
        writers.append(Background("TensorBoard", board))
    if wanted.wandb != "off":
        site = WeightsAndBiases(
            run.wandb,
            project=wanted.wandb_project,
            name=name,
            tags=config.run.tags,
            mode=wanted.wandb,
            config=values,
        )
        writers.append(Background("Weights & Biases", site))
    if wanted.mlflow is not None:
        server = MLflow(
            run.mlflow,
            place=wanted.mlflow,
            experiment=wanted.mlflow_experiment,
            name=name,
            tags=config.run.tags,
            settings=dict(flat(values)),
        )
        writers.append(Background("MLflow", server))
    if wanted.trackio is not None:
        tracker = Trackio(
            run.trackio,
            place=wanted.trackio,
            project=wanted.trackio_project,
            name=name,
            tags=config.run.tags,
            settings=dict(flat(values)),
        )
        writers.append(Background("Trackio", tracker))
    file = OwnedFile(run.metrics, require_lock)
    return MetricsWriter(file, resume_step, writers, keep_best=config.checkpoint.keep_best)


def make_record(
    kind: str, step: int, values: dict[str, float], time: dict[str, float] | None = None, **facts: Any
) -> dict[str, Any]:
    """Return the record of named values of a step. `kind` is `train` or `eval`. Values that are not finite are left
    out."""
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    return {"kind": kind, "step": step, **facts, **finite, **({"time": time} if time else {})}


class MetricsWriter:
    """Rank 0's writer. Records of steps beyond `resume_step` are dropped, because these steps will be repeated.

    If a record cannot be written to metrics.jsonl because the disk is full or not available, it is kept and written
    with the next record. If another program changes or removes the file, it is written anew with all records.

    Raises:
        OSError: metrics.jsonl cannot be made.
        UserError: another process has taken over the run. Every method that writes raises this.
    """

    def __init__(
        self, file: OwnedFile, resume_step: int, writers: Sequence[Background] = (), *, keep_best: str = ""
    ) -> None:
        self._file, self._keep_best = file, keep_best
        self._writers = writers
        self._warnings: list[str] = []
        self._unwritten: list[dict[str, Any]] = []
        self._fails = False
        self.records = read_records(file.path)
        self.go_back(resume_step)

    @property
    def path(self) -> Path:
        """The file metrics.jsonl."""
        return self._file.path

    def go_back(self, step: int) -> None:
        """Drop the records of steps beyond this one.

        Raises:
            OSError: metrics.jsonl cannot be replaced.
        """
        self.records = [r for r in self.records if r["step"] <= step]
        self._file.replace(_lines(self.records))
        self._unwritten = []
        for writer in self._writers:
            writer.restart(step, self.records)

    def evaluated(self, step: int) -> bool:
        """Whether there is a record of the evaluation at a step."""
        return any(r.get("kind") == "eval" and r["step"] == step for r in self.records)

    def add_missing(self, record: dict[str, Any] | None) -> None:
        """Write a training record that a checkpoint brings, if there is none of its step. Rank 0 was lost before it
        wrote the record."""
        if record is not None and not any(
            r.get("kind") == record["kind"] and r["step"] == record["step"] for r in self.records
        ):
            self.add(record)

    def kept_values(self) -> dict[int, float]:
        """Return the values of `checkpoint.keep_best` by evaluated step. Any thread may call."""
        return values_by_step(self.records, self._keep_best) if self._keep_best else {}

    def write(
        self,
        kind: str,
        step: int,
        values: dict[str, float],
        time: dict[str, float] | None = None,
        **facts: Any,
    ) -> None:
        """Write the record that `make_record` makes of these arguments."""
        self.add(make_record(kind, step, values, time, **facts))

    def add(self, record: dict[str, Any]) -> None:
        """Write a record."""
        self.records.append(record)
        self._unwritten.append(record)
        self._write_out()
        for writer in self._writers:
            writer.write(record)

    def warnings(self) -> list[str]:
        """Return the warnings for the user since the last call."""
        warnings, self._warnings = self._warnings, []
        return warnings + [warning for writer in self._writers for warning in writer.warnings()]

    def close(self) -> None:
        """Write the records that are left, and let all writers finish."""
        try:
            if self._unwritten:
                self._write_out()
        finally:
            for writer in self._writers:
                writer.close()

    def _write_out(self) -> None:
        try:
            if not self._file.append(_lines(self._unwritten)):
                self._file.replace(_lines(self.records))
                self._warnings.append(
                    f"another program has changed or removed {self.path}. It is written anew with all records"
                )
            self._unwritten, self._fails = [], False
        except OSError as error:
            if not self._fails:
                self._warnings.append(
                    f"{self.path} cannot be written: {error.strerror}. The write is repeated with the next record"
                )
            self._fails = True


def _lines(records: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()
