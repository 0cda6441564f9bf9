import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from trainer.config.schema import load_config
from trainer.monitoring.metrics import MetricsWriter, open_metrics
from trainer.runs.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("patience")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what the writer sets for the library."""
    with monkeypatch.context() as own:
        own.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        own.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        own.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        yield


def metrics_of(run: RunFolder, place: str | Path | None, step: int, *others: str) -> MetricsWriter:
    given = [f"metrics.mlflow={place or 'null'}", "metrics.mlflow_experiment=backbones", "optim.lr=0.25"]
    given += ["metrics.tensorboard=false", "run.tags=[narrow]", *others]
    return open_metrics(run, load_config("cifar10", given), step)


def write(metrics: MetricsWriter, steps: range, loss: float) -> None:
    for step in steps:
        metrics.write("train", step, {"loss": loss}, {"images_per_second": 5.0}, epoch=step / 10)


def client_of(store: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=store.as_uri())


def only_run(store: Path) -> Run:
    client = client_of(store)
    experiment = client.get_experiment_by_name("backbones")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    return found


def history(store: Path, key: str) -> list[tuple[int, float]]:
    values = client_of(store).get_metric_history(only_run(store).info.run_id, key)
    return [(one.step, one.value) for one in values]


def test_attempts_go_on_with_one_run_and_no_step_is_there_twice(run: RunFolder, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = metrics_of(run, store, 0)
    write(first, range(1, 5), 1.0)
    first.go_back(2)
    write(first, range(3, 6), 2.0)
    first.write("eval", 5, {"knn_online": 0.5})
    first.close()
    assert only_run(store).info.status == "FINISHED"
    again = metrics_of(run, store, 4, "eval.batch=128")
    write(again, range(5, 8), 3.0)
    again.write("eval", 7, {"knn_online": 0.75})
    again.close()
    assert (first.warnings(), again.warnings()) == ([], [])

    found = only_run(store)
    assert found.info.run_id == json.loads(run.mlflow.read_text())["id"]
    assert (found.info.run_name, found.data.tags["narrow"]) == ("my_run", "true")
    assert found.data.params["optim.lr"] == "0.25"
    assert found.data.params["eval.batch"] == "256"  # of the first attempt
    assert history(store, "train/loss") == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 3), (7, 3)]
    assert history(store, "eval/knn_online") == [(5, 0.5), (7, 0.75)]
    assert {"train/images_per_second", "train/epoch"} <= found.data.metrics.keys()


def test_what_was_not_sent_before_is_sent_with_the_next_attempt(run: RunFolder, tmp_path: Path) -> None:
    store = tmp_path / "store"
    off = metrics_of(run, None, 0)
    write(off, range(1, 3), 1.0)
    off.close()
    for first in (2, 4):  # the second finds all sent
        metrics = metrics_of(run, store, first)
        write(metrics, range(first + 1, first + 3), 3.0)
        metrics.close()
    assert history(store, "train/loss") == [(1, 1), (2, 1), (3, 3), (4, 3), (5, 3), (6, 3)]


def test_records_wait_for_a_place_that_cannot_be_reached(run: RunFolder, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.write_text("in the way of the folder")
    metrics = metrics_of(run, store, 0)
    write(metrics, range(1, 3), 1.0)
    while not (warnings := metrics.warnings()):
        pass
    assert warnings[0].startswith("MLflow failed: ")
    assert warnings[0].endswith(". It is tried again")
    store.unlink()
    write(metrics, range(3, 4), 2.0)
    metrics.close()
    assert metrics.warnings() == []
    assert history(store, "train/loss") == [(1, 1), (2, 1), (3, 2)]


def test_a_server_that_does_not_answer_is_said_once_and_stops_nothing(run: RunFolder) -> None:
    metrics = metrics_of(run, "http://user:word@127.0.0.1:9", 0)
    write(metrics, range(1, 4), 1.0)
    metrics.close()
    (warning,) = metrics.warnings()
    assert warning.startswith("MLflow failed: ")
    assert "127.0.0.1" in warning
    assert len(run.metrics.read_text().splitlines()) == 3


def test_a_missing_package_is_said_with_the_command_that_installs_it(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    metrics = metrics_of(run, "mlruns", 0)
    write(metrics, range(1, 3), 1.0)
    metrics.close()
    (warning,) = metrics.warnings()
    assert "pip install 'all4one[mlflow]'" in warning
    assert not run.mlflow.exists()
