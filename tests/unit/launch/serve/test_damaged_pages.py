"""Bits of a run's files are flipped at random: every page of it is shown, or refused in words."""

import json
import random
from contextlib import suppress
from pathlib import Path

import pytest
from served_runs import write_run

from data_pipelines.errors import UserError
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


@pytest.mark.parametrize(
    "name", ["config.yaml", "metrics.jsonl", "ledger.jsonl", "eval.json", "profile.json", "rank_times.json"]
)
def test_a_flipped_bit_ends_in_a_page_or_in_words(folder: Path, name: str) -> None:
    path, chooser = folder / "one" / name, random.Random(name)
    whole = path.read_bytes()
    for _ in range(FLIPS):
        damaged = bytearray(whole)
        for _ in range(chooser.choice([1, 3, 30])):
            damaged[chooser.randrange(len(whole))] ^= 1 << chooser.randrange(8)
        path.write_bytes(damaged)
        app = App(RunsOfFolder(folder))
        assert app.answer("api/runs", {}) is not None
        for place in ("run", "metrics", "compare", "profile"):
            with suppress(UserError):
                assert app.answer(f"api/{place}", {"run": ["one"]}) is not None
    path.write_bytes(whole)
    page = App(RunsOfFolder(folder)).answer("api/run", {"run": ["one"]})
    assert page is not None
    assert json.loads(page.body)["results"][0]["title"] == "Results"
