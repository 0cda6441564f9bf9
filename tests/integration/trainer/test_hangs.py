"""Real runs with a rank that hangs: it is named and ended, and the run goes on or says why it does not."""

import json
import os
import re
from pathlib import Path

from commands import ROOT, run, run_program
from poisoned_command import poisoned
from tiny_runs import NO_EVALUATION, Runs

from launch.local.stragglers import SLOWER
from trainer.runs.end_reasons import ExitCode
from trainer.runs.rank_times import RANK_TIMES, STRAGGLER, read_rank_times

BEGIN = 8


def test_ranks_that_hang_in_several_ways_are_named_and_the_run_reaches_its_end(
    digits: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    done = run_program(
        ROOT / "benchmarks" / "named_hangs.py",
        *("--hangs", 4, "--least", 5, "--nproc", 2, "--data", digits, "--json", results),
    )
    assert results.exists(), done.out[-3000:]
    result = json.loads(results.read_text())
    assert result["named_wrongly"] == []
    assert result["finished"]
    assert result["attempts"] == 5


def test_a_run_that_hung_once_is_the_same_as_one_that_did_not(
    runs: Runs, straight: str, tmp_path: Path
) -> None:
    marker = tmp_path / "hung"
    fault = f"if not os.path.exists({str(marker)!r}): Path({str(marker)!r}).touch(); time.sleep(1000)"
    code, out = poisoned(runs, tmp_path, "hung_once", fault, "guard.hang_seconds=4", begin=BEGIN)
    assert code == 0, out
    assert "the ranks start again from step 8" in out
    (end,) = [r for r in runs.ledger("hung_once") if r["event"] == "end" and r["reason"] == "stalled"]
    assert end["message"].startswith(f"rank 1 on {os.uname().nodename} hangs: no step for ")
    assert "It is in forward, and rank 0 waits in message " in end["message"]
    assert end["saved"] == BEGIN
    stacks = runs.path("hung_once").stall_dump(1, 1).read_text()
    assert "in step" in stacks
    assert "poisoned.py" in stacks
    trace = json.loads(runs.path("hung_once").collective_trace(1, 0).read_text())
    assert trace["entries"][-1]["profiling_name"].startswith("gloo:")
    runs.assert_same("hung_once", straight)


def test_a_rank_that_hangs_with_the_interpreter_prints_its_stacks(runs: Runs, tmp_path: Path) -> None:
    marker = tmp_path / "hung"
    fault = (
        f"if not os.path.exists({str(marker)!r}): Path({str(marker)!r}).touch(); "
        "import ctypes; ctypes.PyDLL(None).sleep(1000)"  # unlike CDLL it keeps the lock
    )
    code, out = poisoned(
        runs, tmp_path, "hung_held", fault, "guard.hang_seconds=4", NO_EVALUATION, begin=BEGIN
    )
    assert code == 0, out
    assert "rank 1 on" in out
    assert "a thread holds its interpreter" in out
    (log,) = runs.path("hung_held").logs.glob("*/rank_1.log")
    assert "poisoned.py" in log.read_text()


def test_ranks_that_hang_again_and_again_end_the_run_with_the_reason(runs: Runs, tmp_path: Path) -> None:
    """In the first step of an attempt, the usual time of a step is not known, and `guard.stall_seconds` counts."""
    settings = ("guard.hang_seconds=4", "guard.stall_seconds=20", NO_EVALUATION)
    code, out = poisoned(runs, tmp_path, "hung_again", "time.sleep(1000)", *settings, begin=BEGIN)
    assert code == ExitCode.STALLED, out
    ends = [r for r in runs.ledger("hung_again") if r["event"] == "end" and r["reason"] == "stalled"]
    assert [(r["attempt"], r["saved"]) for r in ends] == [(1, BEGIN), (2, BEGIN)]
    assert ends[0]["message"].startswith("rank 1 on ")
    assert re.match(rf"no step for \d+ s after step {BEGIN}: ", ends[1]["message"])
    assert "the run stalled" in out


def test_a_rank_that_computes_slowly_is_named_and_status_shows_its_time(runs: Runs, tmp_path: Path) -> None:
    settings = ("train.max_steps=125", "train.epochs=50", NO_EVALUATION, "checkpoint.every_steps=0")
    settings += (
        "train.global_batch=16",
        "parallel.batch_norm=rank",
    )  # only the time that the rank sleeps matters
    code, out = poisoned(runs, tmp_path, "slow_rank", "time.sleep(0.1)", *settings, begin=BEGIN)
    assert code == 0, out
    ledger = runs.ledger("slow_rank")
    (found,) = [r for r in ledger if r["event"] == STRAGGLER]
    assert (found["rank"], found["node"]) == (1, os.uname().nodename)
    assert found["slower"] >= SLOWER
    assert [r["times"][1]["slower"] >= SLOWER for r in ledger if r["event"] == RANK_TIMES] == [True]
    fast, slow = read_rank_times(runs.path("slow_rank"))
    assert slow.milliseconds >= (1 + SLOWER) * fast.milliseconds
    assert "rank 1 on" in out
    shown = run("status", runs.path("slow_rank").path).words
    assert f"more on the slowest rank, 1 on {os.uname().nodename}" in shown
