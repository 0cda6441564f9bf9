import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from trainer.checkpoint_manager import CheckpointManager
from trainer.checkpoints.format import Snapshot
from trainer.checkpoints.store import CheckpointStore
from trainer.config.schema import load_config
from trainer.distributed.process_group import Process
from trainer.runs.components import AttemptContext
from trainer.runs.run_folder import RunFolder


@pytest.mark.parametrize(
    ("job", "signal_lead_seconds", "told"), [("7", 10, 1), ("7", 3600, 0), (None, 10, 0)]
)
def test_a_job_whose_checkpoints_may_not_fit_before_the_time_limit_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str | None, signal_lead_seconds: int, told: int
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    clock = iter(range(0, 1000, 6))  # a write takes 6 s by it
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    config = load_config("digits_demo", [f"slurm.signal_lead_seconds={signal_lead_seconds}", "slurm.time=2h"])
    process = Process(0, 0, 1, torch.device("cpu"))
    manager = CheckpointManager(
        AttemptContext(RunFolder(tmp_path), config, process, 1, None), cast(Any, None)
    )
    writer = manager._writer
    assert writer is not None
    writer._write(Snapshot(1, {"weight": torch.ones(2)}, {}, {"step": 1}))
    monkeypatch.undo()
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    said = manager.take_messages() + manager.take_messages()
    assert len(said) == told
    assert all("slurm.signal_lead_seconds=24" in message for message in said)
    assert CheckpointStore(tmp_path / "checkpoints").newest_state() == {"step": 1}
    manager.close()
