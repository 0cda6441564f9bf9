"""`all4one profile --dry-run` as a user calls it, with wrong input too."""

import json
from pathlib import Path

import pytest
from commands import run

DIGITS = ("profile", "digits_demo", "--dry-run")


def test_a_recipe_without_data_or_gpu_is_described(tmp_path: Path) -> None:
    stage = "parallel.zero_stage=1"
    done = run(
        *DIGITS,
        stage,
        "parallel.compile=true",
        "--world",
        2,
        "--device",
        "a100",
        "--out",
        tmp_path / "dry",
        cwd=tmp_path,
    )
    assert done.code == 0, done.out
    for said in (
        "one of 2 ranks; nothing is computed",
        "fits into the 80 GB of the card A100 80GB SXM",
        "0 per step, and 0 operations on mixed devices",
        "no host waits, no mixed devices",
        "graphs with 0 breaks; all other lines describe the step without it",
        "Expected to be bound by",
    ):
        assert said in done.words
    record = json.loads((tmp_path / "dry" / "dry_run.json").read_text())
    assert record["peak_bytes"] > record["state_bytes"] > 0
    assert record["graphs"]["breaks"] == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*DIGITS, "--device", "h1000"), "there is no card 'h1000'"),
        ((*DIGITS, "--world", 7), "cannot be split evenly over 7 processes"),
        ((*DIGITS, "--nodes", "1,2"), "--dry-run measures nothing, so --nodes has no meaning"),
        ((*DIGITS, "--trace"), "--dry-run measures nothing, so --trace has no meaning"),
        ((*DIGITS, "--steps", "4"), "--dry-run measures nothing, so --steps has no meaning"),
        (("profile", "digits_demo", "--device", "h100"), "so --device has no meaning"),
        ((*DIGITS, "backbone.name=resnet19"), "resnet19"),
    ],
)
def test_wrong_input_is_one_error(tmp_path: Path, arguments: tuple[object, ...], said: str) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.code == 2, done.out
    assert said in done.words
    assert "Traceback" not in done.out
