"""What the tests of writers for services share."""

from pathlib import Path

import pytest

from trainer.monitoring.writers.base import Background
from trainer.runs.run_folder import RunFolder


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the library longer than a run does: beside other tests it takes its time."""
    monkeypatch.setattr(Background.__init__, "__defaults__", (120.0,))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "my_run")
    run.path.mkdir()
    return run
