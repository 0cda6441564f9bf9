"""`all4one eval RUN --transfer FILE`: several datasets, one of which fails, and what is not evaluated again."""

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import typer
from noise_sets import make_set
from trained_runs import NARROW, make_run, sized

from data_pipelines.errors import UserError
from launch.commands.evaluate import evaluate as command
from launch.evaluate.transfer import read_transfer_sets
from trainer.runs.run_folder import RunFolder

SETTINGS = (*NARROW, *sized(16))
ROOT = Path(__file__).resolve().parents[4]


def entry(name: str, train: Path, validation: Path) -> str:
    return f"  - name: {name}\n    train: {train}\n    validation: {validation}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transfer")
    for name, train, validation in (("own", 40, 10), ("two", 30, 12)):
        make_set(folder / name / "train", train)
        make_set(folder / name / "validation", validation)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> RunFolder:
    sets = (
        f"data.train={folder}/own/train",
        f"data.validation={folder}/own/validation",
        "train.global_batch=8",
    )
    return make_run(folder / "run", *SETTINGS, *sets)[0]


def code_of(run: RunFolder, file: Path, **options: Any) -> int:
    with pytest.raises(typer.Exit) as ended:
        command(run.path, transfer=file, **options)
    return ended.value.exit_code


@pytest.mark.slow
def test_all_sets_but_the_one_that_fails_are_evaluated_once(
    run: RunFolder, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = folder / "sets.yaml"
    first = entry("own", folder / "own/train", folder / "own/validation")
    second = entry("two", folder / "two/train", folder / "two/validation")
    file.write_text("sets:\n" + first + entry("gone", folder / "gone", folder / "gone") + second)
    assert code_of(run, file, knn=True, knn_k="3") == 1
    told = capfd.readouterr()
    assert "1 of 3 datasets failed: gone" in told.err
    assert "set 3 of 3: two\n" in told.out
    summary = json.loads((run.path / "eval.transfer.json").read_text())
    assert list(summary["sets"]) == ["own", "two"]
    for name, found in summary["sets"].items():
        alone = json.loads((run.path / f"eval.{name}.json").read_text())
        assert found["backbones"] == alone["backbones"]
        assert alone["validation"] == str(folder / name / "validation")
    for backbone in ("online", "momentum"):
        top1 = [found["backbones"][backbone]["knn_3"]["top1"] for found in summary["sets"].values()]
        assert summary["mean"][backbone] == {"knn_3": pytest.approx(mean(top1))}
    assert "mean of 2" in told.out

    # without the set that fails, nothing is left to do
    file.write_text("sets:\n" + first + second)
    assert code_of(run, file, knn=True, knn_k="3") == 0
    told = capfd.readouterr()
    assert "own is already evaluated" in told.out
    assert "two is already evaluated" in told.out
    assert json.loads((run.path / "eval.transfer.json").read_text()) == summary


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sets: []", "sets: names no dataset"),
        ("other: 1", "other: is not a known key"),
        ("5", "is not"),
        ("sets:\n" + entry("a b", Path("x"), Path("y")), "letters, digits"),
        ("sets:\n" + entry("transfer", Path("x"), Path("y")), "not be 'transfer'"),
        ("sets:\n" + 2 * entry("a", Path("x"), Path("y")), "several sets have the name 'a'"),
        ("sets:\n  - name: a\n    train: x\n", "validation: is missing"),
    ],
)
def test_a_file_that_is_not_valid_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "sets.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        read_transfer_sets(file)


def test_the_example_is_valid() -> None:
    assert len(read_transfer_sets(ROOT / "examples" / "transfer.yaml")) == 3


def test_options_that_contradict_are_refused(run: RunFolder, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--validation: has no effect with --transfer"):
        command(run.path, transfer=tmp_path / "sets.yaml", validation_set="x")
    with pytest.raises(UserError, match="give one of the runs"):
        command(folder, transfer=tmp_path / "sets.yaml")
    with pytest.raises(UserError, match="there is no such file"):
        command(run.path, transfer=tmp_path / "sets.yaml")
