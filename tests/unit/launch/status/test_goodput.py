"""The account of time against histories whose truth is known, and against any times at all."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.slurm.submitted_jobs import Submissions
from launch.status.attempt_facts import AttemptFacts
from launch.status.goodput import NOT_ALLOCATED, Cause, Goodput, goodput, together
from launch.status.run_status import status
from launch.status.tables import goodput_line
from trainer.runs.records import append_record
from trainer.runs.run_folder import RunFolder

TIMES = st.integers(0, 10_000).map(float)
ANY_FACTS = st.builds(
    AttemptFacts,
    job=st.sampled_from([None, "7", "8"]),
    restart=st.integers(0, 1),
    devices=st.integers(1, 9),
    submitted=st.none() | TIMES,
    allocated=st.none() | TIMES,
    start=TIMES,
    ready=st.none() | TIMES,
    first_step=st.none() | TIMES,
    end=st.none() | TIMES,
    has_failed=st.booleans(),
    evaluations=st.lists(st.tuples(TIMES, st.floats(-1, 5000)), max_size=3),
    saving=st.floats(-1, 5000),
    kept=st.integers(0, 9),
    made=st.integers(9, 30) | st.just(0),
    signs=st.lists(TIMES, min_size=1, max_size=3),
    last_recorded=st.none() | TIMES,
    tells_times=st.booleans(),
    spares=st.integers(0, 3),
)


@given(
    attempts=st.lists(ANY_FACTS, max_size=6),
    submissions=st.dictionaries(st.sampled_from(["7", "8"]), TIMES),
    ended=st.none() | TIMES,
    step=st.floats(0, 300),
)
def test_whatever_the_clocks_say_the_causes_add_up_to_the_elapsed_time_and_none_is_negative(
    attempts: list[AttemptFacts], submissions: dict[str, float], ended: float | None, step: float
) -> None:
    found = goodput(attempts, submissions=submissions, ended=ended, seconds_per_step=step)
    for times, whole in (
        (found.seconds, found.elapsed_seconds),
        (found.device_seconds, found.allocated_device_seconds),
    ):
        known = [round(1000 * seconds) for seconds in times.values() if seconds is not None]
        assert sum(known) == round(1000 * whole)
        assert min(known) >= 0
    assert all(found.device_seconds[cause] == 0 for cause in NOT_ALLOCATED)
    assert found.fraction is None or 0 <= found.fraction <= 1
    moments = [at for one in attempts for at in (one.start, *one.signs) if at is not None]
    others = [at for one in attempts for at in (one.submitted, one.allocated, one.end) if at is not None]
    everything = [*moments, *others, *submissions.values(), *([ended] if ended is not None else [])]
    recorded = [one.last_recorded or 0.0 for one in attempts]
    made = [(one.ready or 0) + one.made * step for one in attempts]
    assert found.elapsed_seconds <= max([0.0, *everything, *recorded, *made])


@dataclass(frozen=True)
class Life:
    """One attempt as it happens, in seconds."""

    devices: int
    queue: float
    """In the queue. Without SLURM, nothing runs."""
    joining: float
    """From the nodes, or the start of the processes, until the ranks have met."""
    opening: float
    """From there to the first finished step."""
    steps: int
    """Steps after the first one, of a second each."""
    evaluating: float
    """One evaluation, after the steps."""
    saving: float
    """One save, after the evaluation."""
    end: str
    """`saved`: it saves and ends; `killed`: that is recorded later; `dies`: nobody records it."""
    unnoticed: float
    """From the last sign of a step to the end of the allocation."""


LIVES = st.lists(
    st.builds(
        Life,
        devices=st.integers(1, 16),
        queue=st.integers(1, 500),
        joining=st.integers(0, 30),
        opening=st.integers(1, 100),
        steps=st.integers(0, 40),
        evaluating=st.integers(0, 50),
        saving=st.integers(0, 9),
        end=st.sampled_from(["saved", "killed", "dies"]),
        unnoticed=st.integers(0, 900),
    ),
    min_size=1,
    max_size=6,
)


def live(
    run: RunFolder, lives: Sequence[Life], *, in_slurm: bool, in_one_job: bool
) -> dict[str, Counter[Cause]]:
    """Write down what happens as the ranks do. Return what was spent, in seconds and in device-seconds.

    The metrics are written at each step, and a checkpoint is only saved at the end of an attempt that ends in order.
    """
    spent, devices = Counter[Cause](), Counter[Cause]()
    now, saved, logged = 1000.0, 0, 0
    recorded: float | None = None

    def spend(seconds: float, cause: Cause, count: int) -> None:
        nonlocal now
        now += seconds
        spent[cause] += seconds  # type: ignore[assignment]
        devices[cause] += seconds * count  # type: ignore[assignment]

    def note(event: str, number: int, **facts: Any) -> None:
        append_record(run.ledger, {"event": event, "time": now, "attempt": number, **facts})

    for number, life in enumerate(lives, start=1):
        facts: dict[str, Any] = {}
        again = in_one_job and number > 1
        submitted = now
        if not again:
            spend(life.queue, Cause.QUEUED if in_slurm else Cause.IDLE, 0)
        if number == 1 and not in_slurm:
            spent.clear()  # nothing of the run is older than its first start
        if in_slurm:
            facts = {"job": "7", "restart": 0 if in_one_job else number - 1}
            facts |= {"submitted": submitted, "allocated": now}
            if again:
                facts |= {"submitted": 1000.0, "allocated": 1000.0 + lives[0].queue}
            before = lives[number - 2].devices if again else life.devices
            cause = Cause.DEAD if again and lives[number - 2].end == "dies" else Cause.STARTING
            spend(life.joining, cause, before)
        note("start", number, world_size=life.devices, last_recorded=recorded, **facts)
        spend(life.opening, Cause.STARTING, life.devices)
        append_record(
            run.ledger,
            {
                "event": "ready",
                "time": now - 1,
                "attempt": number,
                "step": saved,
                "total_steps": 999,
                "replayed": max(0, logged - saved),
            },
        )
        note("stepped", number, step=saved + 1)
        steps = life.steps + 1
        logged = saved + steps
        is_kept = life.end == "saved"
        spend(life.steps, Cause.USEFUL if is_kept else Cause.REDONE, life.devices)
        spend(life.evaluating, Cause.EVALUATING, life.devices)
        note("evaluated", number, step=logged, seconds=life.evaluating, saving=0.0)
        recorded = now
        if is_kept:
            spend(life.saving, Cause.SAVING, life.devices)
            saved = logged
            note("end", number, reason="time is up", step=logged, saving=life.saving)
        elif in_slurm or life.end == "killed":
            spend(life.unnoticed, Cause.DEAD, life.devices)
            if life.end == "killed":
                note("end", number, reason="killed", message="Killed")
    last = lives[-1]
    if in_slurm and last.end == "dies":  # nobody has noticed it yet
        spent[Cause.DEAD] -= last.unnoticed  # type: ignore[assignment]
        devices[Cause.DEAD] -= last.unnoticed * last.devices  # type: ignore[assignment]
    run.metrics.write_text(
        "".join(json.dumps({"kind": "train", "step": n}) + "\n" for n in range(1, logged + 1))
    )
    if recorded is not None:
        os.utime(run.metrics, (recorded, recorded))
    if saved:
        (run.checkpoints / "step").mkdir(parents=True)
        (run.checkpoints / "latest").write_text("step")
        (run.checkpoints / "step" / "state.json").write_text(json.dumps({"step": saved, "saved": 0}))
    return {"seconds": spent, "device_seconds": devices}


def run_at(folder: Path) -> RunFolder:
    run = RunFolder(folder / "run")
    run.path.mkdir()
    run.config.write_text("train: {global_batch: 64}\n")
    return run


@given(lives=LIVES, in_slurm=st.booleans(), in_one_job=st.booleans())
@pytest.mark.slow
def test_the_account_of_a_history_is_what_happened(
    lives: list[Life], in_slurm: bool, in_one_job: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = run_at(Path(folder))
        truth = live(run, lives, in_slurm=in_slurm, in_one_job=in_slurm and in_one_job)
        found = status(run, None, None).goodput
    for name, spent in truth.items():
        times = getattr(found, name)
        assert {cause: times[cause] for cause in Cause} == {cause: spent[cause] for cause in Cause}
    assert found.elapsed_seconds == sum(truth["seconds"].values())
    allocated = sum(truth["device_seconds"].values())
    assert found.fraction == pytest.approx(truth["device_seconds"][Cause.USEFUL] / allocated)


def note(run: RunFolder, event: str, at: float, attempt: int, **facts: Any) -> None:
    append_record(run.ledger, {"event": event, "time": at, "attempt": attempt, **facts})


def test_a_ledger_of_an_earlier_version_gives_what_it_tells_and_calls_the_rest_unknown(
    tmp_path: Path,
) -> None:
    run = run_at(tmp_path)
    Submissions(run).note(["7"], 1, 2)
    (submission,) = Submissions(run).times().values()
    lines = [{"kind": "train", "step": n, "time": {"images_per_second": 32.0}} for n in range(1, 21)]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    begin = submission + 60
    note(run, "start", begin, 1, world_size=2, job="7", restart=0)
    note(run, "ready", begin + 20, 1, step=0, total_steps=100, replayed=0)
    note(run, "start", begin + 400, 2, world_size=2, job="7", restart=1)
    note(run, "ready", begin + 410, 2, step=20, total_steps=100, replayed=10)
    note(run, "end", begin + 500, 2, reason="finished", step=100)
    found = status(run, None, None).goodput
    assert found.fraction is None
    assert found.seconds[Cause.QUEUED] == pytest.approx(60)
    assert found.seconds[Cause.STARTING] == pytest.approx(30)
    # 30 steps of 2 s, of which 10 were made again
    assert found.seconds[Cause.REDONE] == pytest.approx(20)
    assert found.seconds[Cause.USEFUL] == pytest.approx(40 + 90)
    assert found.seconds[Cause.UNKNOWN] == pytest.approx(400 - 20 - 60)
    assert found.seconds[Cause.EVALUATING] is found.seconds[Cause.SAVING] is None
    assert "goodput: unknown of" in goodput_line(found, 10)


def test_steps_before_a_rollback_are_redone(tmp_path: Path) -> None:
    run = run_at(tmp_path)
    note(run, "start", 0, 1, world_size=1, last_recorded=None)
    note(run, "stepped", 10, 1, step=1)
    note(run, "ready", 9, 1, step=0, total_steps=30)
    note(run, "rollback", 30, 1, from_step=20, to_step=10)
    note(run, "end", 50, 1, reason="finished", step=30, saving=0.0)
    found = status(run, None, None).goodput
    assert (found.seconds[Cause.USEFUL], found.seconds[Cause.REDONE]) == (30, 10)
    assert found.fraction == 30 / 50


def test_the_keys_of_a_program_are_the_words_of_the_causes_and_runs_add_up(tmp_path: Path) -> None:
    run = run_at(tmp_path)
    live(run, [Life(2, 100, 5, 20, 80, 10, 3, "saved", 0)], in_slurm=True, in_one_job=False)
    one = status(run, None, None).goodput
    read = json.loads(json.dumps(asdict(one)))
    assert read["seconds"] == {
        "useful": 80,
        "redone": 0,
        "starting": 25,
        "evaluating": 10,
        "saving": 3,
        "dead": 0,
        "spare": 0,
        "queued": 100,
        "idle": 0,
        "unknown": 0,
    }
    assert read["device_seconds"]["useful"] == 160
    assert read["fraction"] == 80 / 118
    both = together([one, one, Goodput(None, 0, 0, dict.fromkeys(Cause, 0.0), dict.fromkeys(Cause, 0.0))])
    assert (both.fraction, both.elapsed_seconds) == (one.fraction, 2 * one.elapsed_seconds)
    assert goodput_line(one, 0) == (
        "goodput: 67.8 % of 0.066 device-hours, 0.014 starting, 0.0056 evaluating, 0.0017 saving. "
        "Without devices: 100 s queued"
    )
