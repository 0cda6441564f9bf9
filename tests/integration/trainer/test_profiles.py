"""Real profiles of runs that were made to be bound by one thing."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import run
from PIL import Image
from tiny_runs import Runs

from data_pipelines.cores import usable_cores

CORES = usable_cores()
CASES = {
    "data": (1, ("data.decode_threads=1", "train.global_batch=8")),  # on large images
    "compute": (1, ("backbone.width=32", "train.global_batch=32")),
    # both use all cores, and threads of one operation wait for the one that has no core
    "loader's cores": (
        1,
        (f"data.decode_threads={CORES}", f"parallel.torch_threads={CORES}", "train.global_batch=8"),
    ),
    # 2 channels and 4 images leave nothing to compute
    "overhead": (1, ("backbone.width=2", "train.global_batch=4", "optim.name=sgd")),
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
        Image.fromarray(noise.integers(0, 256, (1700, 1700, 3), np.uint8)).save(path, quality=90)
    assert run("data", "build", folder / "images", folder / "set").code == 0
    return folder / "set"


@pytest.mark.parametrize("bound", CASES)
def test_the_verdict_is_right(runs: Runs, tmp_path: Path, large_images: Path, bound: str) -> None:
    nproc, settings = CASES[bound]
    if bound in ("data", "loader's cores"):
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
    the = "the " if bound in ("update", "loader's cores") else ""
    assert f"Bound by {the}{bound}" in result.words
    assert f"profiling {recipe} on {nproc} process" in result.words
    assert "measuring the loader by itself measuring 6 training steps in 3 rounds" in result.words
    assert found["world_size"] == nproc
    assert found["flops"] > 0
    assert found["mfu"] > 0
    kinds = {message["kind"] for message in found["messages"]}
    assert kinds == ({"gradients", "keys", "predictions", "batch norm", "sums"} if nproc > 1 else set())
    assert (found["message_bytes"] > 0) == (nproc > 1)
    assert all(seconds >= 0 for seconds in found["parts"].values())
    assert sum(found["parts"].values()) >= 0.95 * found["step"]
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
