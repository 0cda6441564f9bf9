"""Runs that begin with the state of another run."""

import subprocess
import sys

import pytest
from tiny_runs import STEPS

from trainer.config.schema import load_config
from trainer.runs.records import read_records
from trainer.runs.run_folder import create_run
from trainer.runs.saved_progress import TAKEN

SCHEDULE = (f"train.max_steps={STEPS + 6}", "optim.lr=0.3", "optim.warmup_epochs=0.5")


def test_a_longer_run_goes_on_with_samples_and_state_of_the_first(runs, straight, command) -> None:
    source = runs.path(straight)
    result = command("train", "--from", f"{source.path}@8", *SCHEDULE, "--nproc", 2)
    assert result.code == 0, result.out
    longer = runs.path(f"{straight}_from_8")
    assert f"goes on from step 8 of {source.path}" in result.words
    assert "resuming from step_00000008" in result.words
    assert read_records(longer.ledger)[0] | {"time": 0} == {
        "event": "taken",
        "time": 0,
        "run": str(source.path.absolute()),
        "step": 8,
    }
    trained = [r for r in runs.metrics(longer.path.name) if r["kind"] == "train"]
    assert [r["step"] for r in trained] == list(range(9, STEPS + 7))
    first = {r["step"]: r for r in runs.metrics(straight) if r["kind"] == "train"}
    # The loss of the first step depends on the state before it, and not on the new schedule.
    assert trained[0]["loss"] == first[9]["loss"]
    assert trained[0]["lr"] != first[9]["lr"]
    assert trained[1]["loss"] != first[10]["loss"]


def test_with_the_same_schedule_it_ends_bitwise_as_the_first(runs, straight, command) -> None:
    again = command("train", "--from", f"{runs.path(straight).path}@8", "run.name=again", "--nproc", 2)
    assert again.code == 0, again.out
    a, b = runs.tensors("again"), runs.tensors(straight)
    assert a.keys() == b.keys()
    assert not [name for name in a if not a[name].equal(b[name])]
    of_both = [load_config(runs.path(name).config) for name in ("again", straight)]
    assert of_both[0].method == of_both[1].method


def test_the_python_interface_goes_on_from_a_run_as_the_command_does(runs, straight) -> None:
    given = (f"train.max_steps={STEPS + 1}", "run.name=from_python")
    lines = f"import all4one\nprint(all4one.train(overrides={list(given)}, from_run={str(runs.path(straight).path)!r}))"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = runs.path("from_python")
    assert done.stdout.splitlines()[-1] == str(run.path)
    assert [r["step"] for r in runs.metrics(run.path.name) if r["kind"] == "train"] == [STEPS + 1]
    assert run.is_finished()


@pytest.mark.parametrize(
    ("source", "overrides", "words"),
    [
        ("straight", ("optim.name=sgd",), "optim.name: adamw -> sgd"),
        ("straight", ("method.embedding_dim=32", "train.epochs=9"), "method.embedding_dim: 16 -> 32"),
        ("straight", (), f"would end at step {STEPS}, and the state that it takes is that of step {STEPS}"),
        ("straight@9", SCHEDULE, "there is no checkpoint of step 9"),
        ("none", SCHEDULE, "this is not the folder of a run"),
        ("straight@8", (*SCHEDULE, "run.name=straight"), "the run's folder is not empty"),
    ],
)
def test_what_cannot_go_on_is_refused_and_leaves_no_folder(
    runs, straight, command, source: str, overrides: tuple[str, ...], words: str
) -> None:
    before = sorted(runs.folder.iterdir())
    result = command("train", "--from", runs.folder / source, *overrides)
    assert result.code == 2, result.out
    assert words in result.words
    assert "Traceback" not in result.out
    assert sorted(runs.folder.iterdir()) == before


def test_a_run_that_was_killed_before_it_had_the_state_does_not_begin_at_step_0(runs, straight) -> None:
    cut = create_run(load_config(runs.path(straight).config, ["run.name=cut"]), "cut")
    cut.note(TAKEN, run=str(runs.path(straight).path), step=8)
    again = runs.resume("cut", nproc=1)
    assert again.code == 2
    assert "says that a checkpoint of step 8 was saved" in again.words
