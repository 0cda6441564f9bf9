"""Loggers of real runs of two processes, which are stopped and go on."""

import csv
import signal

from wandb_files import offline_runs


def test_a_run_that_went_on_is_one_table_and_one_run_at_weights_and_biases(runs) -> None:
    given = ("metrics.csv=true", "metrics.wandb=offline", "run.tags=[digits]")
    process = runs.start(*runs.arguments("logged", *given), "--nproc", 2)
    runs.wait_for_step("logged", 6, process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    result = runs.resume("logged")
    assert result.code == 0, result.out
    assert "failed" not in out + result.out

    records, run = runs.metrics("logged"), runs.path("logged")
    with run.csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["kind"], int(r["step"])) for r in rows] == [(r["kind"], r["step"]) for r in records]
    assert all(None not in row and None not in row.values() for row in rows)
    train = [r for r in records if r["kind"] == "train"]
    assert [float(r["loss"]) for r in rows if r["kind"] == "train"] == [r["loss"] for r in train]

    attempts = offline_runs(run.wandb)
    assert len(attempts) == 2
    assert {(a.id, a.name, tuple(a.tags)) for a in attempts} == {(attempts[0].id, "logged", ("digits",))}
    sent = [(h["step"], h["train/loss"]) for a in attempts for h in a.history if "train/loss" in h]
    assert sent == [(r["step"], r["loss"]) for r in train]
