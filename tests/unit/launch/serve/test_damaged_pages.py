"""Files of a run are damaged at random: every page of it is shown, or refused in words."""

import json
import random
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from damage import with_flipped_bits, with_wrong_value
from served_runs import write_run

from data_pipelines.errors import UserError
from launch.report.metrics import TAU
from launch.serve.app import App
from launch.serve.runs_of_folder import RunsOfFolder

FLIPS = 60
RESULTS = {
    "checkpoint": "checkpoints/step_00000040",
    "validation": "data",
    "images": 200,
    "backbones": {"online": {"knn_20": {"top1": 0.9}, "linear_fast": {"top1": 0.95}}},
}
PROFILE = {
    "spans": [["step", 1.0, 2.0]],
    "parts": {"losses": 1.0},
    "verdict": {"words": "Bound by compute."},
    **{"step": 1.0, "world_size": 1, "global_batch": 2, "device": "CPU"},
}
TIMES = [{"rank": rank, "node": f"node{rank}", "milliseconds": 1.0, "slower": 0.0} for rank in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    run = write_run(folder, "one")
    for name, content in (("eval.json", RESULTS), ("profile.json", PROFILE), ("rank_times.json", TIMES)):
        (run.path / name).write_text(json.dumps(content))
    return folder


FILES = ("config.yaml", "metrics.jsonl", "ledger.jsonl", "eval.json", "profile.json", "rank_times.json")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_ends_in_a_page_or_in_words(folder: Path, name: str) -> None:
    path, chooser = folder / "one" / name, random.Random(name)
    whole = path.read_bytes()
    for _ in range(FLIPS):
        path.write_bytes(with_flipped_bits(whole, chooser.choice([1, 3, 30]), chooser))
        look_at_every_page(folder)
    path.write_bytes(whole)
    page = App(RunsOfFolder(folder)).answer("api/run", {"run": ["one"]})
    assert page is not None
    assert json.loads(page.body)["results"][0]["title"] == "Results"


@pytest.mark.parametrize("name", FILES)
def test_a_value_of_a_wrong_kind_ends_in_a_page_or_in_words(folder: Path, name: str) -> None:
    path, chooser = folder / "one" / name, random.Random(name)
    whole = path.read_bytes()
    for _ in range(FLIPS):
        path.write_bytes(with_wrong_value(path, whole, chooser))
        look_at_every_page(folder)
    path.write_bytes(whole)


@pytest.mark.parametrize("momentum", ["0.)9", ".nan", "[1]", "1e400"])
def test_a_momentum_that_is_no_number_costs_only_its_own_curve(folder: Path, momentum: str) -> None:
    path = folder / "one" / "config.yaml"
    whole = path.read_text()
    settings = yaml.safe_load(whole)
    settings["method"]["momentum"] = "MOMENTUM"
    path.write_text(yaml.safe_dump(settings).replace("MOMENTUM", momentum))
    answer = App(RunsOfFolder(folder)).answer("api/metrics", {"run": ["one"]})
    path.write_text(whole)
    assert answer is not None
    series = json.loads(answer.body)["runs"]["one"]["series"]
    assert "loss" in series
    assert TAU not in series


def look_at_every_page(folder: Path) -> None:
    """Each page of the run is answered, or refused in words."""
    app = App(RunsOfFolder(folder))
    assert app.answer("api/runs", {}) is not None
    for place in ("run", "metrics", "compare", "profile"):
        with suppress(UserError):
            assert app.answer(f"api/{place}", {"run": ["one"]}) is not None
