"""The times that a plan takes from a run, against ledgers of runs whose times are known."""

from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from launch.plan.measured_times import measured_times
from launch.slurm.agent_links import LOST_NODE
from trainer.config.schema import load_config
from trainer.runs.records import append_record
from trainer.runs.run_folder import RunFolder

STEP, SAVE = 0.5, 0.2


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of 50 steps an epoch with a checkpoint at every tenth step."""
    run = RunFolder(tmp_path / "earlier")
    run.path.mkdir()
    run.write_config(
        load_config(
            "digits_demo", ["checkpoint.every_steps=10", "metrics.log_every=1", "train.global_batch=32"]
        )
    )
    return run


def attempt(
    run: RunFolder,
    number: int,
    first: int,
    last: int,
    *,
    start: float,
    starting: float,
    last_recorded: float | None,
    killed_after: float | None = None,
    message: str = "",
    **facts: object,
) -> float:
    """Record an attempt that makes the steps after `first` up to `last`. Returns when it ended."""

    def note(event: str, at: float, **values: object) -> None:
        append_record(run.ledger, {"event": event, "time": at, "attempt": number, **values})

    note("start", start, world_size=2, last_recorded=last_recorded, **facts)
    note("ready", start + starting - STEP, step=first, total_steps=100, replayed=0)
    now = start + starting
    note("stepped", now, step=first + 1)
    saves = 0
    for step in range(first + 1, last + 1):
        now += STEP * (step > first + 1)
        append_record(
            run.metrics,
            {"kind": "train", "step": step, "epoch": step / 50, "time": {"images_per_second": 32 / STEP}},
        )
        if step % 10 == 0 or (step == last and killed_after is None):
            saves += 1
            now += SAVE
    if killed_after is not None:
        note("end", now + killed_after, reason="killed", message=message, saved=last)
        return now + killed_after
    note("end", now, reason="finished", step=last, saving=saves * SAVE)
    return now


def test_a_run_on_one_machine_tells_its_steps_saves_starts_and_restarts(run: RunFolder) -> None:
    end = attempt(run, 1, 0, 25, start=1000.0, starting=4.0, last_recorded=None, killed_after=0.8)
    attempt(run, 2, 25, 63, start=end + 5.0, starting=1.5, last_recorded=end - 0.8)
    found = measured_times(run)
    assert found["step_seconds"].value == pytest.approx(STEP)
    assert found["step_seconds"].count == 37
    assert found["save_seconds"].value == pytest.approx(SAVE)
    assert found["save_seconds"].count == 5
    assert found["evaluation_seconds"].value == 0
    assert found["start_seconds"].value == pytest.approx(4.0)
    # Half a step lies between the last record and the kill on average. The gap has no device on one machine.
    assert found["in_place_seconds"].value == pytest.approx(0.8 + 1.5 - STEP / 2)
    assert found["images"].value == pytest.approx(50 * 32)
    assert "queue_seconds" not in found


def test_a_job_tells_its_wait_in_the_queue_and_the_time_between_attempts(run: RunFolder) -> None:
    job = {"job": "7", "nodes": "node[1-2]"}
    end = attempt(
        run,
        1,
        0,
        25,
        start=1000.0,
        starting=4.0,
        last_recorded=None,
        killed_after=0.8,
        submitted=900.0,
        allocated=990.0,
        restart=0,
        **job,
    )
    again = attempt(
        run,
        2,
        25,
        40,
        start=end + 0.4,
        starting=1.5,
        last_recorded=end - 0.8,
        killed_after=2.0,
        submitted=900.0,
        allocated=990.0,
        restart=0,
        **job,
    )
    attempt(
        run,
        3,
        40,
        60,
        start=again + 140,
        starting=6.0,
        last_recorded=again - 2.0,
        submitted=again + 5.0,
        allocated=again + 125.0,
        restart=1,
        **job,
    )
    found = measured_times(run)
    assert found["in_place_seconds"].value == pytest.approx(0.8 + 0.4 + 1.5 - STEP / 2)
    assert found["start_seconds"].value == pytest.approx((10 + 4.0 + 15 + 6.0) / 2)
    assert found["queue_seconds"].value == pytest.approx((90 + 120) / 2)


def test_a_job_tells_how_long_it_takes_to_notice_what_is_lost(run: RunFolder) -> None:
    start, end = 1000.0, 0.0
    restart, submitted, allocated = 0, 900.0, 990.0
    losses = (
        # What is lost, from the last record until the end is on record, and whether SLURM starts the job again.
        ("rank 1 on b was ended by SIGKILL", 0.8, False),
        (f"rank 1 on b {LOST_NODE}: it acknowledged nothing for 5 s", 6.0, False),
        (f"rank 1 on c {LOST_NODE}: it acknowledged nothing for 5 s", 7.2, True),
        (f"rank 0 on a {LOST_NODE}", 40.0, True),
        ("out of memory", 3.0, True),
        ("", None, False),
    )
    before = None
    for number, (message, after, requeued) in enumerate(losses, 1):
        end = attempt(
            run,
            number,
            20 * (number - 1),
            20 * number,
            start=start,
            starting=1.5,
            last_recorded=before,
            killed_after=after,
            message=message,
            job="7",
            restart=restart,
            submitted=submitted,
            allocated=allocated,
        )
        before = end - (after or 0.0)
        start = end + 0.4
        if requeued:
            # SLURM gives the nodes back two seconds later, and others after ten more.
            restart, submitted, allocated = restart + 1, end + 2.0, end + 12.0
            start = allocated + 3.0
    found = measured_times(run)
    assert (found["in_place_seconds"].count, found["start_seconds"].count) == (1, 4)
    assert found["in_place_seconds"].value == pytest.approx(0.8 + 0.4 + 1.5 - STEP / 2)
    # In place a lost node takes 5.2 s longer than a lost rank. The other one has given back its nodes after 9.2 s.
    assert found["detection_seconds"].count == 2
    assert found["detection_seconds"].value == pytest.approx((5.2 + 7.2 + 2 - STEP / 2) / 2)
    assert found["first_detection_seconds"].value == pytest.approx(40 + 2 - STEP / 2)
    assert found["release_seconds"].value == pytest.approx(3 + 2 - STEP / 2)


def test_a_run_whose_attempts_were_all_killed_tells_the_speed_of_its_records(run: RunFolder) -> None:
    attempt(run, 1, 0, 25, start=1000.0, starting=4.0, last_recorded=None, killed_after=0.8)
    found = measured_times(run)
    assert found["step_seconds"].value == pytest.approx(STEP)
    assert "save_seconds" not in found


def test_a_run_without_records_is_refused(run: RunFolder) -> None:
    with pytest.raises(UserError, match="tell no times"):
        measured_times(run)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the folder of a run"):
        measured_times(RunFolder(tmp_path))


def test_copies_for_neighbors_count_as_saves(run: RunFolder) -> None:
    run.write_config(
        load_config(
            "digits_demo",
            [
                *("checkpoint.every_steps=10", "train.global_batch=32"),
                *("parallel.zero_stage=1", "checkpoint.replicate_every=8"),
            ],
        )
    )
    attempt(run, 1, 0, 25, start=1000.0, starting=4.0, last_recorded=None)
    # Checkpoints at the steps 10, 20 and 25, and copies at 8, 16 and 24. What the ledger has is the time of all.
    found = measured_times(run)["save_seconds"]
    assert (found.count, found.value) == (6, pytest.approx(3 * SAVE / 6))
