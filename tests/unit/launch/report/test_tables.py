"""Results of a run in words."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.node_check.record import NODE_CHECK
from launch.report.facts import RunFacts, read_facts
from launch.report.headline import key_figures
from launch.report.tables import evaluated_of, goodput, node_checks, ranks, results, shown
from launch.status.run_status import status
from trainer.config.schema import load_config
from trainer.runs.records import append_record
from trainer.runs.run_folder import create_run

EVAL = {
    "checkpoint": "runs/one/checkpoints/step_00000008",
    "validation": "data/cars",
    "images": 200,
    "backbones": {
        "online": {
            "linear_fast": {"top1": 0.5, "top5": 0.9},
            "low_shot_10%": {"top1": 0.4, "top1_std": 0.02, "top5": 0.8, "subsets": [{}, {}, {}]},
            "retrieval": {"map": 0.3, "recall_at_1": 0.6},
            "robustness": {"mean_corruption_error": 0.4, "clean_error": 0.1},
        }
    },
}


def facts(folder: Path, *overrides: str, evaluated: Any = None) -> RunFacts:
    config = load_config("digits_demo", [f"run.folder={folder}", "run.name=one", *overrides])
    run = create_run(config, "one")
    if evaluated is not None:
        (run.path / "eval.json").write_text(json.dumps(evaluated))
    return read_facts([run])[0]


def test_results_say_what_they_are_of(tmp_path: Path) -> None:
    found = facts(tmp_path, evaluated=EVAL)
    assert evaluated_of(found).startswith("Results of step_00000008 on 200 images of data/cars.")
    rows = [list(row) for row in results(found).rows]
    assert rows == [
        ["linear_fast", "online", "top-1 50.00 %, top-5 90.00 %", "43.14 % to 56.86 %"],
        ["low_shot_10%", "online", "top-1 40.00 %, top-5 80.00 %", "2.00 % over 3 subsets"],
        ["retrieval", "online", "mAP 30.00 %, recall@1 60.00 %", ""],
        ["robustness", "online", "mean corruption error 40.00 %, clean error 10.00 %", ""],
    ]


def test_a_file_that_is_no_result_is_passed_over(tmp_path: Path) -> None:
    found = facts(tmp_path, evaluated={"backbones": {"online": {}}})
    assert found.evaluated is None
    assert evaluated_of(found) == ""
    assert results(found).rows == []


def test_the_time_of_a_run_is_shown_by_cause(tmp_path: Path) -> None:
    found = facts(tmp_path)
    assert goodput(found).rows == []
    start, ready, end = ({"time": 3600.0 * hours, "attempt": 1} for hours in (0, 1, 4))
    for record in (
        {"event": "start", "world_size": 2, "last_recorded": None, **start},
        {"event": "ready", "step": 0, "total_steps": 9, **ready},
        {"event": "stepped", "step": 1, **ready},
        {"event": "end", "reason": "finished", "step": 9, "saving": 0.0, **end},
    ):
        append_record(found.run.ledger, record)
    found = replace(found, status=status(found.run, None, None))
    assert [list(row[:4]) for row in goodput(found).rows] == [
        ["useful", "3", "6", "75.0 %"],
        ["starting", "1", "2", "25.0 %"],
    ]
    assert {figure.name: figure.value for figure in key_figures(found)}["goodput"] == "75.0 %"


def test_settings_are_shown_in_a_line() -> None:
    assert shown(None) == "–"
    assert shown([{"size": 32, "ratio": [0.75, 4 / 3]}]) == "[size: 32, ratio: [0.75, 1.33333]]"


def test_ranks_are_compared_with_the_median(tmp_path: Path) -> None:
    found = facts(tmp_path)
    assert ranks(found).rows == []
    times = [
        {"rank": rank, "node": "node1", "milliseconds": 100 + 20.0 * rank, "slower": 0.2 * rank}
        for rank in (0, 1)
    ]
    found.run.rank_times.write_text(json.dumps(times))
    (found,) = read_facts([found.run])
    assert [list(row) for row in ranks(found).rows] == [
        ["0", "node1", "100.0", "+0 %"],
        ["1", "node1", "120.0", "+20 %"],
    ]


def test_checks_of_nodes_are_shown_with_the_attempt_that_came_after_them(tmp_path: Path) -> None:
    found = facts(tmp_path)
    assert node_checks(found).rows == []
    known = {"count": 2, "seconds": 5.0, "stopped": False, "swapped": {}, "links": [], "common": []}
    found.run.note(NODE_CHECK, attempt=1, bad={"node2": ["memory: slow"]}, **known)
    (row,) = node_checks(found).rows
    assert list(row) == ["1", "the check of 2 nodes took 5.0 s", "node2 is bad: memory: slow"]
