from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.errors import UserError
from launch.slurm import submit
from launch.slurm.submission import SlurmSubmission
from trainer.config.schema import Config, load_config


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Config]:
    """The configurations that a sweep checks before it is queued. There is no SLURM."""
    found: list[Config] = []

    def note(batch: SlurmSubmission, configs: Sequence[Config], *, new_runs: int) -> None:
        found.extend(configs)

    monkeypatch.setattr(submit, "_refuse_what_fails", note)
    monkeypatch.setattr(SlurmSubmission, "script", lambda self: "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return found


def swept(tmp_path: Path, overrides: list[str], *sweeps: str) -> None:
    options: dict[str, Any] = {"parallel": 1, "preflight": True, "dry_run": True}
    submit.submit_sweep("digits_demo", [*overrides, f"run.folder={tmp_path}"], sweeps, **options)


def test_a_point_is_the_run_that_its_overrides_would_train(tmp_path: Path, checked: list[Config]) -> None:
    swept(tmp_path, ["optim.lr=0.5"], "optim=adamw,sgd")
    alone = [load_config("digits_demo", ["optim.lr=0.5", f"optim={name}"]) for name in ("adamw", "sgd")]
    assert [config.optim for config in checked] == [config.optim for config in alone]


@pytest.mark.parametrize("sweep", ["run={name: a},{name: b}", "slurm={nodes: 1},{nodes: 2}", "run.name=a,b"])
def test_what_all_runs_share_cannot_be_swept(sweep: str, tmp_path: Path, checked: list[Config]) -> None:
    with pytest.raises(UserError, match="cannot be swept"):
        swept(tmp_path, [], sweep)
