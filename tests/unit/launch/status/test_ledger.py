"""The ledger's sums against histories that are made up step by step, written down as the ranks write them."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.status.ledger import AttemptSummary, read_attempts, total
from trainer.runs.end_reasons import EndReason
from trainer.runs.records import append_record
from trainer.runs.run_folder import RunFolder
from trainer.runs.saved_progress import FELL_BACK, OF_COPIES, SURVIVED

BATCH = 64


def make_run(folder: Path) -> RunFolder:
    run = RunFolder(folder / "run")
    run.path.mkdir()
    run.config.write_text(f"train: {{global_batch: {BATCH}}}\n")
    return run


def note(run: RunFolder, event: str, at: float, attempt: int, **facts: Any) -> None:
    append_record(run.ledger, {"event": event, "time": at, "attempt": attempt, **facts})


def write_metrics(run: RunFolder, steps: int, seconds_per_step: float = 1.0) -> None:
    """Records of steps 1 … N, as a resumed run leaves them: those beyond its checkpoint are gone."""
    speed = {"images_per_second": BATCH / seconds_per_step}
    lines = [json.dumps({"kind": "train", "step": s, "time": speed}) for s in range(1, steps + 1)]
    run.metrics.write_text("".join(line + "\n" for line in lines))


@dataclass(frozen=True)
class Life:
    """One attempt as it happens."""

    world_size: int
    starting: float
    """Seconds until the first step."""
    steps: int | None
    """None: it dies before it is ready."""
    end: str
    """`saved`: asked to stop, it saves; `killed`: the job's script notes it; `dies`: nobody does."""
    wait: float
    """Seconds until the next start."""


LIVES = st.lists(
    st.builds(
        Life,
        world_size=st.integers(1, 16),
        starting=st.floats(0, 100),
        steps=st.none() | st.integers(0, 40),
        end=st.sampled_from(["saved", "killed", "dies"]),
        wait=st.floats(1, 1000),
    ),
    max_size=6,
)


@dataclass
class Truth:
    seconds: float = 0.0
    """Device-seconds."""
    trained: int = 0
    """Steps in all, with those done again."""
    kept: int = 0


def live(run: RunFolder, lives: Sequence[Life], interval: int) -> Truth:
    """Write down what happens; a step takes a second and a checkpoint comes at each multiple of the interval."""
    truth, now, saved, logged = Truth(), 1000.0, 0, 0
    for number, life in enumerate(lives, start=1):
        note(run, "start", now, number, world_size=life.world_size, nodes="node1", job="7", restart=number)
        trained = life.steps or 0
        lasted = life.starting + trained
        if life.steps is not None:
            replayed = max(0, logged - saved)
            note(run, "ready", now + life.starting, number, step=saved, total_steps=999, replayed=replayed)
            logged = saved + trained
            truth.trained += trained
            saved = logged if life.end == "saved" else max(saved, logged // interval * interval)
            write_metrics(run, logged)
        if life.end == "saved":
            reached = {"step": logged} if life.steps is not None else {}
            note(run, "end", now + lasted, number, reason="time is up", **reached)
        elif life.end == "killed":
            note(run, "end", now + lasted, number, reason="lost a rank", message="Connection closed by peer")
            note(
                run,
                "end",
                now + lasted,
                number,
                reason="killed",
                message="node1, task 1: Killed",
                saved=saved,
            )
        elif life.steps is None:
            lasted = 0.0  # it gave no sign after its start
        truth.seconds += lasted * life.world_size
        now += lasted + life.wait
    truth.kept = saved
    return truth


@given(lives=LIVES, interval=st.integers(1, 30))
@pytest.mark.slow
def test_every_device_second_and_every_step_is_useful_lost_or_spent_starting(
    lives: list[Life], interval: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder))
        lives = [*lives, Life(1, 1.0, 1, "saved", 1.0)]  # so that there is a speed on record
        truth = live(run, lives, interval)
        attempts = read_attempts(run, running=False, saved=truth.kept)
    hours = total(attempts)
    assert hours.useful + hours.lost + hours.starting == pytest.approx(truth.seconds / 3600)
    for one in attempts:
        lasted = (one.end - one.start) * one.devices / 3600
        assert one.hours.useful + one.hours.lost + one.hours.starting == pytest.approx(lasted)
        assert min(one.kept, one.lost, one.hours.useful, one.hours.lost, one.hours.starting) >= -1e-9
    assert sum(one.kept for one in attempts) == truth.kept
    assert sum(one.lost for one in attempts) == truth.trained - truth.kept
    assert [one.reason for one in attempts] == [
        {"saved": "time is up", "killed": "killed", "dies": EndReason.NO_END}[life.end] for life in lives
    ]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path)


def lost_and_resumed(run: RunFolder, **successor: Any) -> list[AttemptSummary]:
    """Two devices do 30 steps of 2 s and die, 10 steps after their checkpoint; the next attempt goes on."""
    note(run, "start", 0, 1, world_size=2, nodes="node[1-2]", job="7", restart=0)
    note(run, "ready", 20, 1, step=0, total_steps=100, replayed=0)
    write_metrics(run, 20, seconds_per_step=2.0)
    note(run, "start", 400, 2, world_size=2, nodes="node[2-3]", **successor)
    note(run, "ready", 410, 2, step=20, total_steps=100, replayed=10)
    return read_attempts(run, running=True, saved=20)


def test_steps_that_are_done_again_are_lost_and_a_death_is_dated_by_the_last_step(run: RunFolder) -> None:
    first, second = lost_and_resumed(run, job="7", restart=1)
    assert (first.kept, first.lost, first.end) == (20, 10, 20 + 30 * 2)
    assert (first.reason, "SLURM restarted the job" in first.message) == (EndReason.NO_END, True)
    assert first.hours.lost * 3600 == pytest.approx(2 * 10 * 2)
    assert first.hours.starting * 3600 == pytest.approx(2 * 20)
    assert (second.reason, second.first_step, second.replayed) == (EndReason.RUNNING, 20, 10)
    assert second.end == pytest.approx(time.time(), abs=5)


def test_of_another_job_nothing_is_said_of_a_restart(run: RunFolder) -> None:
    first, _ = lost_and_resumed(run, job="8", restart=0)
    assert first.message == "the processes were killed, or their node failed"


def test_a_checkpoint_that_turns_out_broken_takes_the_steps_of_two_attempts(run: RunFolder) -> None:
    for number, (at, step, replayed) in enumerate([(0, 0, 0), (100, 10, 10), (200, 5, 25)], start=1):
        note(run, "start", at, number, world_size=1)
        note(run, "ready", at, number, step=step, total_steps=100, replayed=replayed)
    write_metrics(run, 5)
    first, second, third = read_attempts(run, running=False, saved=5)
    assert [(one.kept, one.lost) for one in (first, second, third)] == [(5, 15), (0, 20), (0, 0)]


def test_a_machine_that_was_cut_off_costs_until_its_successor_starts(run: RunFolder) -> None:
    note(run, "start", 0, 1, world_size=1, nodes="node1", job="7", restart=0)
    note(run, "ready", 10, 1, step=0, total_steps=100, replayed=0)
    note(run, "start", 100, 2, world_size=1, nodes="node2", job="7", restart=1)
    note(run, "end", 500, 1, reason="error", message="another process has taken over this run")
    first, _ = read_attempts(run, running=False, saved=0)
    assert (first.reason, first.end) == (EndReason.CUT_OFF, 100)


def test_a_line_that_a_power_cut_left_short_is_passed_over(run: RunFolder) -> None:
    note(run, "start", 0, 1, world_size=1)
    with run.ledger.open("a") as file:
        file.write('{"event": "rea')
    (only,) = read_attempts(run, running=False, saved=0)
    assert (only.reason, only.hours.starting) == (EndReason.NO_END, 0)


def test_what_the_ranks_went_on_from_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    events: list[tuple[str, dict[str, Any]]] = [
        (SURVIVED, {"step": 15, "rank": 2, "source": OF_COPIES}),
        (SURVIVED, {"step": 16, "rank": 0}),  # of a version that had no other source
        (FELL_BACK, {"step": 10}),
    ]
    for number, (event, facts) in enumerate(events, start=1):
        note(run, "start", 100.0 * number, number, world_size=3)
        note(run, event, 100.0 * number + 50, number, **facts)
        note(run, "end", 100.0 * number + 60, number, reason="killed", message="rank 1 was ended by SIGKILL")
    note(run, "start", 500.0, 4, world_size=3)
    found = read_attempts(run, running=True, saved=16)
    killed = "killed: rank 1 was ended by SIGKILL. The ranks went on from"
    assert [one.how_it_ended for one in found] == [
        f"{killed} the copies of neighbors, step 15",
        f"{killed} the state of the rank, step 16",
        f"{killed} the checkpoint of step 10",
        "running",
    ]
