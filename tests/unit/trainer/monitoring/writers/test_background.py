import threading
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from trainer.monitoring.metrics import MetricsWriter
from trainer.monitoring.writers.base import Background, Record
from trainer.runs.owned_file import OwnedFile
from trainer.runs.records import read_records


class Notebook:
    """Writes down what it is asked, and fails or waits where it is told to."""

    recovers: ClassVar[bool] = False

    def __init__(self, fails_at: int = 0, gate: threading.Event | None = None) -> None:
        self.said: list[str] = []
        self.threads: set[threading.Thread] = set()
        self._fails_at, self._gate = fails_at, gate

    def restart(self, step: int, records: Sequence[Record]) -> None:
        self._say(f"restart {step} with {len(records)}")

    def write(self, record: Record) -> None:
        if self._gate is not None:
            self._gate.wait()
        if record["step"] == self._fails_at:
            raise ConnectionError("no route to host\nand much more")
        self._say(f"step {record['step']}")

    def close(self) -> None:
        self._say("close")

    def _say(self, words: str) -> None:
        self.said.append(words)
        self.threads.add(threading.current_thread())


class Patient(Notebook):
    recovers: ClassVar[bool] = True


def test_a_writer_sees_all_in_order_and_never_in_the_step(tmp_path: Path) -> None:
    notebook = Notebook()
    metrics = MetricsWriter(OwnedFile(tmp_path / "metrics.jsonl"), 0, [Background("notebook", notebook)])
    for step in (1, 2, 3):
        metrics.write("train", step, {"loss": 1.0})
    metrics.go_back(1)
    metrics.write("train", 2, {"loss": 2.0})
    metrics.close()
    assert notebook.said == [
        "restart 0 with 0",
        "step 1",
        "step 2",
        "step 3",
        "restart 1 with 1",
        "step 2",
        "close",
    ]
    assert threading.current_thread() not in notebook.threads
    assert metrics.warnings() == []


@pytest.mark.parametrize(
    ("kind", "said"), [(Notebook, ["restart 0 with 0"]), (Patient, ["restart 0 with 0", "step 2", "close"])]
)
def test_a_failure_is_said_once_and_stops_nothing(
    tmp_path: Path, kind: type[Notebook], said: list[str]
) -> None:
    notebook = kind(fails_at=1)
    metrics = MetricsWriter(OwnedFile(tmp_path / "metrics.jsonl"), 0, [Background("notebook", notebook)])
    for step in (1, 1, 2):
        metrics.write("train", step, {"loss": 1.0})
    metrics.close()
    assert notebook.said == said
    (warning,) = metrics.warnings()
    assert warning.startswith("notebook failed: no route to host. ")
    assert "\n" not in warning
    assert len(read_records(tmp_path / "metrics.jsonl")) == 3


def test_one_that_hangs_is_left_behind(tmp_path: Path) -> None:
    gate = threading.Event()
    slow = Background("slow", Notebook(gate=gate), patience=0.05)
    quick = Notebook()
    metrics = MetricsWriter(OwnedFile(tmp_path / "metrics.jsonl"), 0, [slow, Background("quick", quick)])
    metrics.write("train", 1, {"loss": 1.0})
    metrics.close()
    assert quick.said == ["restart 0 with 0", "step 1", "close"]
    assert [warning.split()[0] for warning in metrics.warnings()] == ["slow"]
    gate.set()
