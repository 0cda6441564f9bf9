"""`all4one eval FOLDER`, with evaluations that are made up."""

import json
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from launch.evaluate import several_runs
from launch.evaluate.evaluation import EvalJob
from launch.evaluate.several_runs import evaluate_runs, holds_runs
from trainer.evaluation.evaluators import Evaluators
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import RunLock

TOP1 = {"lr=0.3": 0.5, "lr=1.0": 0.625}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A folder with two finished runs, one that was interrupted and one that was never started."""
    ends = {"lr=0.3": "finished", "lr=1.0": "finished", "lr=3.0": "interrupted", "lr=9.0": None}
    for name, reason in ends.items():
        run = RunFolder(tmp_path / "sweep" / name)
        run.path.mkdir(parents=True)
        run.config.write_text("train: {global_batch: 64}\n")
        if reason:
            run.note("end", attempt=1, reason=reason, step=4)
    return tmp_path / "sweep"


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Exit codes of evaluations. Those with 0 write results."""
    found: dict[str, int] = {}

    def evaluate(job: EvalJob, nproc: int) -> int:
        assert nproc == 2
        name = job.source.name
        if found.get(name) == 2:
            raise UserError("has no labels", where=job.source)
        if not found.get(name):
            results = {"knn_20": {"top1": TOP1[name], "top5": 1}, "retrieval": {"map": 0.25}}
            (job.source / "eval.json").write_text(json.dumps({"backbones": {"online": results}}))
        return found.get(name, 0)

    monkeypatch.setattr(several_runs, "run_in_processes", evaluate)
    return found


def job(folder: Path, out: Path | None = None) -> EvalJob:
    return EvalJob(source=folder, evaluators=Evaluators(knn=(20,)), out=out)


def test_every_finished_run_is_evaluated_and_the_others_are_named_with_the_reason(
    sweep: Path, codes: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLock(sweep / "lr=9.0"):
        assert evaluate_runs(job(sweep), 2) == 0
    told = capsys.readouterr()
    assert "left out: lr=3.0 is not finished: interrupted" in told.err
    assert "left out: lr=9.0 is still training" in told.err
    assert "run 1 of 2: lr=0.3" in told.out
    assert "│ lr=0.3 │ online   │ 50.00  │ 25.00     │" in told.out
    assert "│ lr=1.0 │ online   │ 62.50  │ 25.00     │" in told.out
    assert "evaluated 2 of 4 runs, 2 left out" in told.out


@pytest.mark.parametrize("code", [1, 2, 137])
def test_one_that_fails_keeps_no_other_from_its_evaluation_and_is_named(
    sweep: Path, codes: dict[str, int], capsys: pytest.CaptureFixture[str], code: int
) -> None:
    codes["lr=0.3"] = code
    assert evaluate_runs(job(sweep), 2) == 1
    told = capsys.readouterr()
    assert "│ lr=1.0 │" in told.out
    assert "│ lr=0.3 │" not in told.out
    assert "1 of 2 evaluations failed: lr=0.3" in told.err


def test_a_signal_stops_all(sweep: Path, codes: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    codes["lr=0.3"] = 130
    assert evaluate_runs(job(sweep), 2) == 130
    assert "lr=1.0" not in capsys.readouterr().out


def test_one_file_for_all_and_a_folder_without_a_finished_run_are_refused(
    sweep: Path, codes: dict[str, int]
) -> None:
    with pytest.raises(UserError, match="--out names one file"):
        evaluate_runs(job(sweep, Path("all.json")), 2)
    for name in TOP1:
        RunFolder(sweep / name).ledger.unlink()
    with pytest.raises(UserError, match="none of the 4 runs in this folder is finished"):
        evaluate_runs(job(sweep), 2)


def test_a_folder_of_runs_is_told_from_a_run_and_a_checkpoint(sweep: Path, tmp_path: Path) -> None:
    checkpoint = sweep / "lr=0.3" / "checkpoints" / "step_00000004"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").touch()
    found = {
        path.name: holds_runs(path) for path in (sweep, sweep / "lr=0.3", checkpoint, tmp_path / "absent")
    }
    assert found == {"sweep": True, "lr=0.3": False, "step_00000004": False, "absent": False}
