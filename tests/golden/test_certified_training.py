"""Training against recorded numbers of the published code, see `benchmarks/certified.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "certified.py"
NUMBERS = Path(__file__).with_name("certified")
STEPS = {"all4one": 50, "nnclr": 12, "barlow_twins": 12}
RECORDED = {"all4one": 500, "nnclr": 100, "barlow_twins": 100}
TOLERANCE = 1e-9


def certified(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def cifar10(test_data: Path) -> Path:
    """Folder of test data with CIFAR-10."""
    if not (test_data / "cifar10" / "train.tar").is_file():
        pytest.skip(f"no cifar10/train.tar in {test_data}: set ALL4ONE_TEST_DATA to a folder that has it")
    return test_data


@pytest.mark.parametrize("case", STEPS)
def test_the_first_steps_are_those_of_the_published_code(case: str, cifar10: Path, tmp_path: Path) -> None:
    steps, out = STEPS[case], tmp_path / "out.json"
    result = certified(case, "--precision", "fp64", "--steps", steps, "--data", cifar10, "--json", out)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(out.read_text())[f"{case}_fp64"]
    assert found["steps"] == steps
    wanted = {"neighbor", "centroid", "feature"} if case == "all4one" else set()
    assert found["to_50"].keys() == wanted | {"loss", "online_loss"}
    assert max(found["to_50"].values()) <= TOLERANCE
    if steps == 50:
        assert max(found["weights"]["50"].values()) <= TOLERANCE


def test_another_schedule_is_noticed_within_four_steps(cifar10: Path) -> None:
    changed = ("--set", "optim.peak_lr_at=after_warmup")
    result = certified("all4one", "--precision", "fp64", "--steps", 4, "--data", cifar10, *changed)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "within 1e-09 to step 50 and 1e-06 later: False" in result.stdout


@pytest.mark.parametrize("path", sorted(NUMBERS.glob("*.npz")), ids=lambda path: path.stem)
def test_the_numbers_are_whole_and_of_a_training_that_learns(path: Path) -> None:
    numbers = dict(np.load(path))
    losses = numbers["loss/loss"]
    assert len(losses) == RECORDED[path.stem.rpartition("_")[0]]
    assert losses[-10:].mean() < losses[:10].mean()
    assert all(np.isfinite(value).all() for value in numbers.values() if value.dtype.kind == "f")
    assert f"norms/{len(losses)}" in numbers
