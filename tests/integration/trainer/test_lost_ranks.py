"""Real runs that lose ranks and go on."""

import json
import signal
from pathlib import Path

import pytest
from commands import ROOT, run_program
from poisoned_command import poisoned
from tiny_runs import NO_EVALUATION, Runs

from launch.local.memory_kills import memory_kills


def test_ranks_killed_in_every_phase_redo_no_step_and_change_nothing(digits: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    done = run_program(
        ROOT / "benchmarks" / "lost_ranks.py",
        *("--kills", 12, "--steps", 30, "--nproc", 3, "--data", digits, "--json", results),
    )
    assert results.exists(), done.out[-3000:]
    result = json.loads(results.read_text())
    assert result["bitwise"], done.out[-3000:]
    assert result["kills"] >= 9
    assert 8 <= result["attempts"] <= result["kills"] + 1  # two ranks may die at once
    assert result["steps_redone"] == 0


def test_running_statistics_that_a_survivor_saves_are_those_of_an_undisturbed_run(
    digits: Path, tmp_path: Path
) -> None:
    """Each rank computes batch statistics of its own rows. The first rank, which writes checkpoints, is lost."""
    results, plan = tmp_path / "results.json", [{"step": 7, "point": "after forward", "number": 0, "rank": 0}]
    done = run_program(
        ROOT / "benchmarks" / "lost_ranks.py",
        *("--nproc", 2, "--steps", 12, "--data", digits, "--plan", json.dumps(plan), "--json", results),
        *("--settings", "parallel.batch_norm=rank"),
    )
    assert results.exists(), done.out[-3000:]
    result = json.loads(results.read_text())
    assert result["bitwise"], done.out[-3000:]
    assert (result["kills"], result["steps_redone"]) == (1, 0)


def test_ranks_that_die_in_the_same_step_again_and_again_end_the_run(runs: Runs, tmp_path: Path) -> None:
    code, out = poisoned(runs, tmp_path, "lost_again", "os.kill(os.getpid(), signal.SIGKILL)", NO_EVALUATION)
    assert code == 128 + signal.SIGKILL, out
    why = " (out of memory?)" if memory_kills() is None else ""
    assert f"rank 1 was ended by SIGKILL{why}\n" in out
    assert "the ranks have started again 3 times without a new step" in out
    ends = [r for r in runs.ledger("lost_again") if r["event"] == "end" and r["reason"] == "killed"]
    assert [(r["attempt"], r["saved"]) for r in ends] == [(n, 5) for n in range(1, 5)]


def test_an_exception_is_tried_once_more_and_then_ends_the_run(
    runs: Runs, straight: str, tmp_path: Path
) -> None:
    code, out = poisoned(runs, tmp_path, "lost_wrong", "raise ZeroDivisionError('a fault of this test')")
    assert code == 1, out
    assert "a fault of this test" in out
    assert runs.path("lost_wrong").attempts() == 2
    assert max((runs.path("lost_wrong").checkpoints).glob("step_*")).name == "step_00000005"
    result = runs.resume("lost_wrong")
    assert result.code == 0, result.out
    runs.assert_same("lost_wrong", straight)


WAIT = """
if number == {number} and not Path({once!r}).exists():
    Path({once!r}).touch()
    while not self.loss_flag.is_set:
        time.sleep(0.01)
    {then}
"""


@pytest.mark.parametrize(
    ("when", "number", "then"),
    [("after", 4, "pass"), ("before", 5, "raise ValueError('what an ended message has left is wrong')")],
)
def test_a_rank_that_waits_for_its_device_hears_of_the_loss_and_saves(
    runs: Runs, straight: str, tmp_path: Path, when: str, number: int, then: str
) -> None:
    """A CUDA device waits for messages of a lost rank, and the host for the device, until communicators are aborted."""
    name, killed = f"lost_on_device_{when}", str(tmp_path / "killed")
    fault = f"Path({killed!r}).exists() or Path({killed!r}).touch() or os.kill(os.getpid(), signal.SIGKILL)"
    wait = WAIT.format(number=number, once=str(tmp_path / "waited"), then=then)
    code, out = poisoned(runs, tmp_path, name, fault, **{when: f"exec({wait!r})"})
    assert code == 0, out
    survived = [r for r in runs.ledger(name) if r["event"] == "survived"]
    assert [(r["step"], r["rank"]) for r in survived] == [(5, 0)]
    runs.assert_same(name, straight)
