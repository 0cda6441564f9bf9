"""`all4one eval --robustness` of a run, beside the evaluator whose classifier it shares."""

import json
from pathlib import Path

import pytest
import typer
from noise_sets import make_set
from trained_runs import NARROW, make_run, sized

from launch.commands.evaluate import evaluate as command
from launch.evaluate import evaluation
from trainer.evaluation import robustness
from trainer.runs.run_folder import RunFolder

SETTINGS = (*NARROW, *sized(16))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("robust")
    train, validation = make_set(folder / "train", 40), make_set(folder / "validation", 10)
    sets = f"data.train={train}", f"data.validation={validation}", "train.global_batch=8"
    return make_run(folder / "run", *SETTINGS, *sets)[0]


def found(run: RunFolder) -> dict[str, dict[str, dict[str, float]]]:
    return dict(json.loads((run.path / "eval.json").read_text())["backbones"])


def test_it_stands_beside_the_evaluator_whose_classifier_it_uses(
    run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # this process keeps its number of threads
    monkeypatch.setattr(robustness, "KINDS", ("fog", "pixelate"))
    read = []
    original = evaluation.features_of_set
    monkeypatch.setattr(
        evaluation, "features_of_set", lambda *args: read.append(args[1].folder.name) or original(*args)
    )
    with pytest.raises(typer.Exit) as ended:
        command(Path(run.path), robustness=True, linear_fast=True)
    assert ended.value.exit_code == 0
    assert read == ["train", "validation"]
    result = found(run)
    assert result.keys() == {"online", "momentum"}
    for evaluated in result.values():
        clean = 1 - evaluated["linear_fast"]["top1"]
        assert evaluated["robustness"]["clean_error"] == pytest.approx(clean, abs=0.1001)
        assert evaluated["robustness"]["errors"].keys() == {"fog", "pixelate"}
        assert evaluated["robustness"]["l2"] == evaluated["linear_fast"]["l2"]
    assert "error % of momentum on corrupted images" in capsys.readouterr().out
    assert not list(run.path.glob("*.safetensors"))
