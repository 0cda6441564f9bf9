"""Real profiles of runs that were made to be bound by one thing."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import run
from PIL import Image
from tiny_runs import Runs

CASES = {
    "data": (1, ("data.decode_threads=1", "train.global_batch=8")),  # on large images
    "compute": (1, ("backbone.width=32", "train.global_batch=64")),
    # many small messages beside little work: each batch norm waits for the other processes
    "communication": (4, ("backbone.width=2", "train.global_batch=8", "optim.name=sgd")),
    # many numbers in each checkpoint
    "update": (
        1,
        (
            "method.embedding_dim=512",
            "method.queue.size=100000",
            "checkpoint.every_steps=1",
            "train.global_batch=4",
        ),
    ),
}


@pytest.fixture(scope="module")
def large_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of noise, which takes long to decode."""
    folder = tmp_path_factory.mktemp("large")
    noise = np.random.default_rng(0)
    for number in range(12):
        path = folder / "images" / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (2400, 2400, 3), np.uint8)).save(path, quality=90)
    assert run("data", "build", folder / "images", folder / "set").code == 0
    return folder / "set"


@pytest.mark.parametrize("bound", CASES)
def test_the_verdict_is_right(runs: Runs, tmp_path: Path, large_images: Path, bound: str) -> None:
    nproc, settings = CASES[bound]
    if bound == "data":
        settings = (*settings, f"data.train={large_images}", "data.validation=null")
    recipe, *common = runs.common
    # threads of one step wait for each other: with 2, other work on the machine would count as computing
    calm = ("optim.warmup_epochs=0", "checkpoint.every_steps=1000", "parallel.torch_threads=1")
    result = run(
        "profile", recipe, *common, *calm, *settings, "--nproc", nproc, "--steps", 3, "--out", tmp_path
    )
    assert result.code == 0, result.out
    found = json.loads((tmp_path / "profile.json").read_text())
    assert found["verdict"]["bound"] == bound, found["verdict"]
    assert f"Bound by {'the ' * (bound == 'update')}{bound}" in result.words
    assert f"profiling {recipe} on {nproc} process" in result.words
    assert "measuring the loader by itself measuring 3 training steps" in result.words
    assert found["world_size"] == nproc
    assert found["flops"] > 0
    assert found["mfu"] > 0
    kinds = {message["kind"] for message in found["messages"]}
    assert kinds == ({"gradients", "keys", "predictions", "batch norm", "sums"} if nproc > 1 else set())
    assert (found["message_bytes"] > 0) == (nproc > 1)
    assert all(seconds >= 0 for seconds in found["parts"].values())
    assert (tmp_path / "profile.png").read_bytes().startswith(b"\x89PNG")


def test_a_profile_that_cannot_be_made_says_why(runs: Runs, tmp_path: Path) -> None:
    recipe, *common = runs.common
    result = run("profile", recipe, *common, "train.global_batch=7", "--nproc", 2, "--out", tmp_path / "p")
    assert result.code == 2
    assert "7" in result.words
    shared = run("profile", recipe, *common, "parallel.zero_stage=1", "--out", tmp_path / "p")
    assert shared.code == 2
    assert "profile with parallel.zero_stage=0" in shared.words
    assert "Traceback" not in result.out
    assert not (tmp_path / "p").exists()
