"""The metrics of a run: metrics.jsonl, and the other writers that the `metrics` settings enable.

Values that depend on the clock are under `time`. All other values of a record are the same whether or not the run was
interrupted.
"""

import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from data_pipelines.files import write_whole
from data_pipelines.masking import masked_values
from trainer.config.resume_compat import training_config
from trainer.config.schema import Config, dump
from trainer.distributed.collectives import world_size
from trainer.methods.base import LABEL_METRICS
from trainer.monitoring.writers.base import Background
from trainer.monitoring.writers.csv_table import CsvTable
from trainer.monitoring.writers.tensorboard import TensorBoard
from trainer.monitoring.writers.weights_and_biases import WeightsAndBiases
from trainer.runs.records import read_records
from trainer.runs.run_folder import RunFolder


def mean_over_ranks(values: dict[str, Tensor]) -> dict[str, float]:
    """Return the mean of each scalar over all ranks, with one message. Every rank calls with the same names.

    The mean of a value in `LABEL_METRICS` is taken over the ranks that have the value.
    """
    packed = torch.stack([v.detach().double() for v in values.values()])  # [values]
    optional = torch.tensor([name in LABEL_METRICS for name in values], device=packed.device)
    counted = ~(packed.isnan() & optional)
    sums = torch.stack([packed.where(counted, 0), counted.double()])  # [2, values]
    if world_size() > 1:
        dist.all_reduce(sums)
    return dict(zip(values, (sums[0] / sums[1]).tolist(), strict=True))


def open_metrics(run: RunFolder, config: Config, resume_step: int) -> "MetricsWriter":
    """Open the metrics of a run on rank 0, with every writer that the settings enable."""
    wanted, name, values = config.metrics, config.run.name or run.path.name, masked_values(dump(config))
    writers = []
    if wanted.csv:
        writers.append(Background("metrics.csv", CsvTable(run.csv)))
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
    return MetricsWriter(run.metrics, resume_step, writers)


class MetricsWriter:
    """Rank 0's writer. Records of steps beyond `resume_step` are dropped, because these steps will be repeated.

    If a record cannot be written to metrics.jsonl because the disk is full or not available, it is kept and written
    with the next record.
    """

    def __init__(self, path: Path, resume_step: int, writers: Sequence[Background] = ()) -> None:
        self.path = path
        self._writers = writers
        self._warnings: list[str] = []
        self._unwritten = ""
        self.records = read_records(path)
        self.go_back(resume_step)

    def go_back(self, step: int) -> None:
        """Drop the records of steps beyond this one.

        Raises:
            OSError: metrics.jsonl cannot be replaced.
        """
        self.records = [r for r in self.records if r["step"] <= step]
        write_whole(self.path, "".join(json.dumps(r) + "\n" for r in self.records).encode())
        self._unwritten = ""
        for writer in self._writers:
            writer.restart(step, self.records)

    def evaluated(self, step: int) -> bool:
        """Whether there is a record of the evaluation at a step."""
        return any(r.get("kind") == "eval" and r["step"] == step for r in self.records)

    def write(
        self,
        kind: str,
        step: int,
        values: dict[str, float],
        time: dict[str, float] | None = None,
        **facts: Any,
    ) -> None:
        """Record named values of a step. `kind` is `train` or `eval`. Values that are not finite are left out."""
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        record = {"kind": kind, "step": step, **facts, **values, **({"time": time} if time else {})}
        self.records.append(record)
        self._append(json.dumps(record) + "\n")
        for writer in self._writers:
            writer.write(record)

    def warnings(self) -> list[str]:
        """Return the warnings for the user since the last call."""
        warnings, self._warnings = self._warnings, []
        return warnings + [warning for writer in self._writers for warning in writer.warnings()]

    def close(self) -> None:
        """Write the records that are left, and let all writers finish."""
        if self._unwritten:
            self._append("")
        for writer in self._writers:
            writer.close()

    def _append(self, line: str) -> None:
        text = self._unwritten + line
        size: int | None = None
        try:
            size = self.path.stat().st_size
            with self.path.open("a") as file:
                file.write(text)
            self._unwritten = ""
        except OSError as error:
            if size is not None:
                with suppress(OSError):
                    os.truncate(self.path, size)  # the next record would be lost in a torn line
            if not self._unwritten:
                self._warnings.append(
                    f"{self.path} cannot be written: {error.strerror}. The write is repeated with the next record"
                )
            self._unwritten = text
