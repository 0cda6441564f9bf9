"""Charts that would show nothing are lines of text."""

from pathlib import Path
from typing import Any

import pytest

from launch.report.curves import Curve
from launch.report.facts import RunFacts, read_facts
from launch.report.gaps import in_one_line, missing
from launch.report.headline import key_figures
from launch.report.sections import write_report
from trainer.config.schema import load_config
from trainer.runs.records import append_record
from trainer.runs.run_folder import create_run

EVAL = {"kind": "eval", "step": 0, "epoch": 0.0, "knn_online": 0.5}


def a_run(folder: Path, *overrides: str, records: tuple[dict[str, Any], ...] = ()) -> RunFacts:
    run = create_run(load_config("digits_demo", [f"run.folder={folder}", "run.name=one", *overrides]), "one")
    for record in records:
        append_record(run.metrics, record)
    return read_facts([run])[0]


def test_a_single_value_is_a_line() -> None:
    line = in_one_line("knn_online", [("this run", Curve([0.0], [0.5]))])
    assert line == (
        "kNN, online backbone (knn_online): only one value so far, 50.00 % at epoch 0, which is before training."
    )
    several = in_one_line("loss", [("a", Curve([2.0], [0.5])), ("b", Curve([2.0], [0.25]))])
    assert several == "Loss, total (loss): only one value so far, a 0.5, b 0.25 at epoch 2."


def test_a_value_that_never_changes_is_a_line() -> None:
    lines = [("a", Curve([1.0, 2.0], [0.0, 0.0])), ("b", Curve([1.0, 3.0], [0.0, 0.0]))]
    assert in_one_line("skipped_steps", lines) == "Skipped steps (skipped_steps): 0 throughout."


def test_values_that_change_or_differ_between_runs_need_a_chart() -> None:
    assert in_one_line("loss", [("a", Curve([1.0, 2.0], [3.0, 2.0]))]) is None
    lines = [("a", Curve([1.0, 2.0], [0.0, 0.0])), ("b", Curve([1.0, 2.0], [1.0, 1.0]))]
    assert in_one_line("skipped_steps", lines) is None


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("data.validation=null", "the run has no validation set (data.validation)"),
        ("eval.every_epochs=0", "it is turned off (eval.every_epochs=0)"),
    ],
)
def test_the_reason_why_knn_is_missing_is_named(tmp_path: Path, override: str, reason: str) -> None:
    lines = dict(missing([a_run(tmp_path, override)], ["loss", "z_rank", "online_top1"]))
    assert lines == {"Evaluation during training": f"No kNN evaluation is on record: {reason}."}


def test_diagnostics_that_come_rarely_are_announced(tmp_path: Path) -> None:
    facts = a_run(tmp_path, "metrics.health_every=100")
    lines = dict(missing([facts], ["knn_online", "online_top1", "loss"]))
    assert lines == {
        "Health": "No effective ranks and gradient fractions are on record: they come every 100 steps."
    }


def test_nothing_is_missing_where_all_is_on_record(tmp_path: Path) -> None:
    assert not list(missing([a_run(tmp_path)], ["knn_online", "online_top1", "loss", "z_rank"]))


def test_the_page_of_a_run_without_steps_has_lines_and_no_charts(tmp_path: Path) -> None:
    facts = a_run(tmp_path, records=(EVAL,))
    page = write_report([facts.run.path], None, pictures=False, how=None).read_text()
    assert "only one value so far, 50.00 % at epoch 0" in page
    assert "No training step is on record yet" in page
    assert 'class="chart"' not in page
    assert [figure.when for figure in key_figures(facts) if figure.when] == ["step 0: untrained backbone"]


def test_values_that_are_not_finite_are_not_drawn(tmp_path: Path) -> None:
    steps = [{"kind": "train", "step": n, "epoch": n / 2, "loss": float("nan")} for n in (1, 2)]
    facts = a_run(tmp_path, records=(EVAL, *steps))
    page = write_report([facts.run.path], None, pictures=False, how=None).read_text()
    assert 'class="chart"' not in page
