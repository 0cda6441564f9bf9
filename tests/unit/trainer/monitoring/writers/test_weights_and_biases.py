import json
import sys
from pathlib import Path

import pytest
from wandb_files import offline_runs

from trainer.config.schema import load_config
from trainer.monitoring.metrics import MetricsWriter, open_metrics
from trainer.runs.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("patience")


def metrics_of(run: RunFolder, mode: str, step: int) -> MetricsWriter:
    given = [f"metrics.wandb={mode}", "metrics.wandb_project=backbones", "run.tags=[narrow]", "optim.lr=0.25"]
    return open_metrics(run, load_config("cifar10", [*given, "metrics.tensorboard=false"]), step)


def write(metrics: MetricsWriter, steps: range, loss: float) -> None:
    for step in steps:
        metrics.write("train", step, {"loss": loss}, {"images_per_second": 5.0}, epoch=step / 10)


@pytest.mark.slow
def test_attempts_go_on_with_one_run_and_no_step_is_there_twice(run: RunFolder) -> None:
    first = metrics_of(run, "offline", 0)
    write(first, range(1, 5), 1.0)
    first.go_back(2)
    write(first, range(3, 6), 2.0)
    first.write("eval", 5, {"knn_online": 0.5})
    first.close()
    again = metrics_of(run, "offline", 4)
    write(again, range(5, 8), 3.0)
    again.write("eval", 7, {"knn_online": 0.75})
    again.close()
    assert (first.warnings(), again.warnings()) == ([], [])

    one, other = offline_runs(run.wandb)
    assert one.id == other.id == json.loads((run.wandb / "sent.json").read_text())["id"]
    assert (one.name, one.project, one.tags) == ("my_run", "backbones", ["narrow"])
    assert one.config["optim"]["lr"] == 0.25
    history = one.history + other.history
    losses = [(h["step"], h["train/loss"]) for h in history if "train/loss" in h]
    assert losses == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 2.0), (6, 3.0), (7, 3.0)]
    assert [(h["step"], h["eval/knn_online"]) for h in history if "eval/knn_online" in h] == [
        (5, 0.5),
        (7, 0.75),
    ]
    assert {"train/images_per_second", "train/epoch"} <= history[0].keys()


@pytest.mark.slow
def test_what_was_not_sent_before_is_sent_with_the_next_attempt(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = metrics_of(run, "off", 0)
    write(off, range(1, 3), 1.0)
    off.close()
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "wandb", None)
        failing = metrics_of(run, "offline", 2)
        write(failing, range(3, 5), 2.0)
        failing.close()
    for first in (4, 6):  # the second finds all sent
        metrics = metrics_of(run, "offline", first)
        write(metrics, range(first + 1, first + 3), 3.0)
        metrics.close()
    history = [h for one in offline_runs(run.wandb) for h in one.history]
    assert [(h["step"], h["train/loss"]) for h in history] == [
        (1, 1.0),
        (2, 1.0),
        (3, 2.0),
        (4, 2.0),
        (5, 3.0),
        (6, 3.0),
        (7, 3.0),
        (8, 3.0),
    ]


def test_no_account_is_said_once(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    metrics = metrics_of(run, "online", 0)
    write(metrics, range(1, 4), 1.0)
    metrics.close()
    (warning,) = metrics.warnings()
    assert "no account is configured: run `wandb login` once" in warning
    assert len(run.metrics.read_text().splitlines()) == 3


def test_a_missing_package_is_said_with_the_command_that_installs_it(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    metrics = metrics_of(run, "offline", 0)
    write(metrics, range(1, 3), 1.0)
    metrics.close()
    (warning,) = metrics.warnings()
    assert "pip install 'all4one[wandb]'" in warning
