"""Files of a run are damaged at random: every page of it is shown, or refused in words."""

import copy
import json
import math
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
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
WRONG = (None, True, "x", -1, 10**400, 1e308, math.nan, math.inf, [], [1, "a"], {}, {"a": 1}, {1: {"b": []}})
"""Values that a setting or record may have after an edit by hand, a bad disk, or another program's version."""


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_ends_in_a_page_or_in_words(folder: Path, name: str) -> None:
    path, chooser = folder / "one" / name, random.Random(name)
    whole = path.read_bytes()
    for _ in range(FLIPS):
        damaged = bytearray(whole)
        for _ in range(chooser.choice([1, 3, 30])):
            damaged[chooser.randrange(len(whole))] ^= 1 << chooser.randrange(8)
        path.write_bytes(damaged)
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
        lines = whole.splitlines() if name.endswith(".jsonl") else [whole]
        line = chooser.randrange(len(lines))
        values = yaml.safe_load(lines[line])  # JSON is YAML
        replace_one(values, chooser)
        lines[line] = (yaml.safe_dump(values) if name.endswith(".yaml") else json.dumps(values)).encode()
        path.write_bytes(b"\n".join(lines) + b"\n")
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


def replace_one(values: Any, chooser: random.Random) -> None:
    """Replace a value at any depth by one of a wrong kind."""
    places = list(places_in(values))
    container, key = chooser.choice(places)
    container[key] = copy.deepcopy(chooser.choice(WRONG))


def places_in(values: Any) -> Iterator[tuple[Any, Any]]:
    """Each container of nested values with each of its keys."""
    keys = values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
    for key in list(keys):
        yield values, key
        yield from places_in(values[key])


def look_at_every_page(folder: Path) -> None:
    """Each page of the run is answered, or refused in words."""
    app = App(RunsOfFolder(folder))
    assert app.answer("api/runs", {}) is not None
    for place in ("run", "metrics", "compare", "profile"):
        with suppress(UserError):
            assert app.answer(f"api/{place}", {"run": ["one"]}) is not None
