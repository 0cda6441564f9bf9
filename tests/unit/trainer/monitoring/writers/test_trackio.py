import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer.config.schema import load_config
from trainer.monitoring.metrics import open_metrics
from trainer.runs.run_folder import RunFolder

# The library takes its folder from the environment once, when it is imported, so each attempt is a process.
ATTEMPT = """
import json, os, signal, sys
from pathlib import Path
from trainer.monitoring.writers.trackio import Trackio

sent, place, plan = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
writer = Trackio(
    sent, place=place, project="backbones", name="my_run", tags=["narrow"], settings={"optim.lr": 0.25}
)
for order, *arguments in plan:
    if order == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    getattr(writer, order)(*arguments)
writer.close()
"""
READ = """
import json
from trackio.sqlite_storage import SQLiteStorage
runs = SQLiteStorage.get_runs("backbones")
print("FOUND", json.dumps({run: [{k: v for k, v in one.items() if k != "timestamp"}
                        for one in SQLiteStorage.get_logs("backbones", run)] for run in runs}))
print("CONFIG", json.dumps({run: SQLiteStorage.get_run_config("backbones", run) for run in runs}, default=str))
"""


def process(code: str, *arguments: str, place: Path | None = None) -> dict[str, Any]:
    """Run a program and return what it prints, by the first word of each line."""
    environment = os.environ | ({"TRACKIO_DIR": str(place)} if place else {})
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -9), done.stderr
    return {
        word: json.loads(rest) for word, _, rest in (line.partition(" ") for line in done.stdout.splitlines())
    }


def attempt(run: RunFolder, place: Path, *plan: object) -> None:
    """Call the writer in a process of its own, in which nothing is printed."""
    assert process(ATTEMPT, str(run.trackio), str(place), json.dumps(plan)) == {}


def train(step: int, loss: float) -> dict[str, object]:
    return {"kind": "train", "step": step, "loss": loss, "time": {"images_per_second": 5.0}}


def test_attempts_go_on_with_one_run_and_no_step_is_there_twice(run: RunFolder, tmp_path: Path) -> None:
    place = tmp_path / "store"
    first = [train(step, 1.0) for step in range(1, 5)]
    attempt(
        run,
        place,
        ["restart", 0, []],
        *(["write", record] for record in first),
        ["restart", 2, first[:2]],
        ["write", train(3, 2.0)],
        ["write", train(5, 2.0)],
    )
    evaluation = {"kind": "eval", "step": 5, "knn_online": 0.5}
    attempt(
        run,
        place,
        ["restart", 4, first],
        *(["write", record] for record in (train(5, 3.0), evaluation, train(6, 3.0))),
    )
    found = process(READ, place=place)
    ((name, logs),) = found["FOUND"].items()
    assert name == json.loads(run.trackio.read_text())["id"]
    assert name.startswith("my_run-")
    losses = [(one["step"], one["train/loss"]) for one in logs if "train/loss" in one]
    assert losses == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 2.0), (6, 3.0)]
    assert all(one["train/images_per_second"] == 5 for one in logs if "train/loss" in one)
    assert [one["eval/knn_online"] for one in logs if "eval/knn_online" in one] == [0.5]
    config = found["CONFIG"][name]
    assert (config["optim.lr"], config["tags"]) == (0.25, "narrow")


def test_what_a_killed_process_has_lost_is_sent_by_the_next_one(run: RunFolder, tmp_path: Path) -> None:
    place, records = tmp_path / "store", [train(step, 2.0) for step in range(1, 41)]
    attempt(run, place, ["restart", 0, []], ["write", records[0]])
    attempt(run, place, ["restart", 1, records[:1]], *(["write", one] for one in records[1:39]), ["kill"])
    attempt(run, place, ["restart", 39, records[:39]], ["write", records[39]])
    ((_, logs),) = process(READ, place=place)["FOUND"].items()
    assert sorted(one["step"] for one in logs) == list(range(1, 41))


def test_runs_of_one_name_stay_apart(tmp_path: Path) -> None:
    place = tmp_path / "store"
    for folder in ("a", "b"):
        run = RunFolder(tmp_path / folder / "my_run")
        run.path.mkdir(parents=True)
        attempt(run, place, ["restart", 0, []], ["write", train(1, 1.0)])
    assert [len(logs) for logs in process(READ, place=place)["FOUND"].values()] == [1, 1]


def test_without_the_package_one_warning_says_how_to_install_it(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.setenv("TRACKIO_DIR", "")  # undoes what the writer sets
    given = [f"metrics.trackio={tmp_path / 'store'}", "metrics.tensorboard=false"]
    metrics = open_metrics(run, load_config("cifar10", given), 0)
    metrics.write("train", 1, {"loss": 1.0})
    metrics.close()
    (warning,) = metrics.warnings()
    assert "pip install 'all4one[trackio]'" in warning
    assert len(run.metrics.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("place", "valid"),
    [
        ("trackio", True),
        ("http://host:7860", True),
        ("hf://spaces/org/name", True),
        ("hf://org/name", False),
        ("sqlite:///file", False),
    ],
)
def test_places_are_checked_before_a_run(place: str, valid: bool) -> None:
    given = [f"metrics.trackio={place}"]
    if valid:
        assert str(load_config("cifar10", given).metrics.trackio).endswith(place)
    else:
        with pytest.raises(Exception, match="must be a folder, http://HOST:7860"):
            load_config("cifar10", given)
