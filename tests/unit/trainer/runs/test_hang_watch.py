"""A rank that hangs says where, and ends; each in a process of its own, which the watch can end."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer.runs.end_reasons import ExitCode
from trainer.runs.hang_watch import stall_of
from trainer.runs.run_folder import RunFolder

SECONDS = 0.2
RANK = """
import ctypes, sys, threading, time
from pathlib import Path
from trainer.runs import hang_watch
from trainer.runs.run_folder import RunFolder

def wait_for_data():
    time.sleep(60)

hang_watch.SETTLE_SECONDS = 0.15
run = RunFolder(Path(sys.argv[1]))
threading.Thread(target=wait_for_data, name="prefetch", daemon=True).start()
with hang_watch.HangWatch(run, 3, 1, {seconds}) as watch:
    watch.step = 12
    watch.doing("waiting for data")
    {act}
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.logs.mkdir(parents=True)
    return run


def rank(run: RunFolder, act: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    """A rank that does something while it is watched; its output goes to its log too."""
    script = RANK.format(act=act, seconds=seconds)
    done = subprocess.run(
        [sys.executable, "-c", script, run.path], capture_output=True, text=True, timeout=30, check=False
    )
    (run.logs / "rank_1.log").write_text(done.stderr)
    return done


def test_a_rank_that_hangs_dumps_its_threads_and_ends_with_a_code_of_its_own(run: RunFolder) -> None:
    began = time.monotonic()
    done = rank(run, "wait_for_data()")
    assert done.returncode == ExitCode.STALLED, done.stderr
    assert time.monotonic() - began < 5
    dump = run.stall_dump(3, 1)
    assert f"error: {dump}: rank 1 made no step for 0.2 s after step 12: waiting for data" in done.stderr
    assert "all4one resume" in done.stderr
    text = dump.read_text()
    assert "is MainThread" in text
    assert "is prefetch" in text
    assert text.count("line 8 in wait_for_data") == 2  # both threads'
    said = stall_of(run, 3, 2, run.logs)
    assert said is not None
    assert said.startswith("no step for 0 s after step 12: ")
    assert "waiting for data, in wait_for_data" in said
    assert "rank 0: gave no sign" in said
    assert stall_of(run, 4, 2, run.logs) is None


def test_a_rank_that_holds_the_interpreter_prints_its_stacks_and_ends(run: RunFolder) -> None:
    done = rank(run, "ctypes.PyDLL(None).sleep(60)")  # unlike CDLL it keeps the lock
    assert done.returncode == 1, done.stderr
    assert "most recent call first" in done.stderr
    said = stall_of(run, 3, 2, run.logs)
    assert said is not None
    assert f"rank 1: was suspended or held the interpreter's lock, see {run.logs / 'rank_1.log'}" in said


@pytest.mark.parametrize(
    ("act", "seconds"),
    [("[(time.sleep(0.06), watch.met()) for _ in range(10)]", 0.4), ("time.sleep(0.3)", 0)],
)
def test_ranks_that_meet_go_on_and_so_does_one_that_is_not_watched(
    run: RunFolder, act: str, seconds: float
) -> None:
    done = rank(run, act, seconds)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not run.stall_dump(3, 1).exists()
    assert stall_of(run, 3, 2, run.logs) is None


def test_what_fails_after_a_stall_is_not_taken_for_its_cause(run: RunFolder) -> None:
    done = rank(run, "time.sleep(0.3); watch.wait_if_stalled(); print('goes on')")
    assert (done.returncode, done.stdout) == (ExitCode.STALLED, "")


def test_a_rank_that_was_stopped_for_a_while_is_not_called_hung_when_it_goes_on(run: RunFolder) -> None:
    resume = "subprocess.Popen(['sh', '-c', f'sleep 0.5; kill -CONT {os.getpid()}'])"
    stop = "os.kill(os.getpid(), signal.SIGSTOP)"
    done = rank(run, f"import os, signal, subprocess; {resume}; {stop}; time.sleep(0.5)", seconds=0.8)
    assert done.returncode == 0, done.stderr
    assert not run.stall_dump(3, 1).exists()


def test_where_no_dump_can_be_written_the_stacks_go_to_the_output(run: RunFolder) -> None:
    run.logs.rename(run.path / "away")
    script = RANK.format(act="wait_for_data()", seconds=SECONDS)
    done = subprocess.run(
        [sys.executable, "-c", script, run.path], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == ExitCode.STALLED
    assert "No such file" in done.stderr
    assert "in wait_for_data" in done.stderr


def test_the_ranks_that_differ_come_first(run: RunFolder) -> None:
    for number in range(7):
        doing = "waiting for data" if number == 5 else "agreeing"
        run.stall_dump(2, number).write_text(
            f"rank: {number}\nhost: node{number}\nstep: 12\ndoing: {doing}\nin: f (a.py:1)\nseconds: 900.2\n"
            "---\nstacks\n"
        )
    said = stall_of(run, 2, 8, run.logs)
    assert said == (
        "no step for 900 s after step 12: rank 5 on node5: waiting for data, in f (a.py:1); rank 7: gave no sign; "
        "ranks 0 on node0, 1 on node1, 2 on node2, 3 on node3 and 2 more: agreeing, in f (a.py:1)"
    )
