"""`all4one logs`: the output of runs, which grows while it is followed."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from launch.slurm import logs, slurm_commands
from launch.slurm.logs import show
from launch.slurm.submitted_jobs import Submissions
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import RunLock

Make = Callable[..., RunFolder]
STATES = dict[str, str]


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> STATES:
    """States of the jobs that SLURM knows."""
    found: STATES = {}
    monkeypatch.setattr(logs, "LOOK_SECONDS", 0)
    monkeypatch.setattr(logs, "ASK_SECONDS", 0)
    monkeypatch.setattr(
        slurm_commands,
        "jobs",
        lambda numbers: {n: slurm_commands.Job(n, found[n], "node1") for n in numbers if n in found},
    )
    return found


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a run in the folder `sweep`. With a job, it is submitted."""

    def made(name: str, job: str | None = None) -> RunFolder:
        run = RunFolder(tmp_path / "sweep" / name)
        run.path.mkdir(parents=True)
        run.config.write_text("train: {global_batch: 64}\n")
        if job is not None:
            Submissions(run).note([job], 1, 1)
        return run

    return made


def write(run: RunFolder, start: str, text: str, rank: int = 0) -> None:
    path = run.logs / start / f"rank_{rank}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def test_lines_of_several_runs_begin_with_the_name_of_their_run(
    make: Make, states: STATES, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, _ = make("lr=0.3", "7_0"), make("lr=1.0", "7_1"), make("lr=3.0", "7_2")
    write(first, "slurm_7_0_0", "step 1\nstep 2\n")
    write(second, "slurm_7_1_0", "step 1\n")
    assert show(first.path.parent, 0, follow_it=False) == 0
    told = capsys.readouterr()
    assert told.out == "[lr=0.3] step 1\n[lr=0.3] step 2\n[lr=1.0] step 1\n"
    assert "no output of rank 0: lr=3.0" in told.err


def test_runs_are_followed_until_the_last_one_is_over(
    make: Make, states: STATES, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make("a", "7"), make("b", "8")
    states |= {"7": "RUNNING", "8": "PENDING"}
    write(first, "slurm_7_0", "one\ntw")

    def happen(_: float, steps: list[Callable[[], None]]) -> None:
        steps.pop(0)()

    def first_goes_on() -> None:
        write(first, "slurm_7_0", "o\nthree")
        states["8"] = "RUNNING"

    def first_ends() -> None:
        write(second, "slurm_8_0", "begin\n")
        states["7"] = "FAILED"

    def second_ends() -> None:
        write(second, "slurm_8_0", "end\n")
        second.note("end", attempt=1, reason="finished", step=3)
        states["8"] = "COMPLETED"

    steps = [first_goes_on, first_ends, second_ends]
    monkeypatch.setattr("launch.slurm.logs.time.sleep", lambda seconds: happen(seconds, steps))
    assert show(first.path.parent, 0, follow_it=True) == 1  # `a` is not finished
    told = capsys.readouterr()
    assert told.out.splitlines() == ["[a] one", "[a] two", "[b] begin", "[a] three", "[b] end"]
    assert "[a] job 7 is failed" in told.err
    assert "[b] job 8 is completed" in told.err


def test_runs_that_are_over_are_not_followed_and_are_named(
    make: Make, states: STATES, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("a", "b")):
        run = make(name, str(number))
        write(run, f"slurm_{number}_0", "long ago\n")
        run.note("end", attempt=1, reason="finished", step=3)
        states[str(number)] = "COMPLETED"
    assert show(run.path.parent, 0, follow_it=True) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "not followed, because they are over: a, b" in told.err


def test_a_single_run_is_printed_as_it_is_from_its_newest_start(
    make: Make, states: STATES, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make("a", "7")
    write(run, "slurm_7_0", "first start\n")
    write(run, "slurm_7_1", "second start, no end of line")
    states["7"] = "COMPLETED"
    run.note("end", attempt=2, reason="finished", step=3)
    assert show(run.path, 0, follow_it=True) == 0
    told = capsys.readouterr()
    assert told.out == "second start, no end of line"
    assert "job 7 is completed" in told.err


def test_a_run_of_this_machine_is_followed_until_its_process_has_ended(
    make: Make, states: STATES, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, ended = make("a"), threading.Event()
    write(run, "20260101T000000_1", "step 1\n", rank=1)
    write(run, "eval_20260101T000000_1", "not of the training\n", rank=1)
    lock = RunLock(run.path, attempt=1)
    lock.__enter__()

    def end(_: float) -> None:
        if not ended.is_set():
            write(run, "20260101T000000_1", "step 2\n", rank=1)
            run.note("end", attempt=1, reason="interrupted", step=2)
            lock.__exit__()
            ended.set()

    monkeypatch.setattr("launch.slurm.logs.time.sleep", end)
    assert show(run.path, 1, follow_it=True) == 1
    told = capsys.readouterr()
    assert told.out == "step 1\nstep 2\n"
    assert "the run is not running: interrupted" in told.err


def test_a_preempted_job_counts_as_over_only_after_a_while(
    make: Make, states: STATES, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make("a", "7")
    states["7"] = "PREEMPTED"
    clock = [0.0]

    def sleep(_: float) -> None:
        clock[0] += 20

    monkeypatch.setattr("launch.slurm.logs.time.sleep", sleep)
    monkeypatch.setattr("launch.slurm.logs.time.monotonic", lambda: clock[0])
    assert show(run.path, 0, follow_it=True) == 1
    assert clock[0] == 40
    assert "job 7 is preempted" in capsys.readouterr().err


def test_no_output_and_no_run_are_said(make: Make, states: STATES, tmp_path: Path) -> None:
    run = make("a")
    with pytest.raises(UserError, match="rank 3 has printed nothing yet"):
        show(run.path, 3, follow_it=False)
    with pytest.raises(UserError, match="not the folder of a run"):
        show(tmp_path / "absent", 0, follow_it=False)
