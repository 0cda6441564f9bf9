"""What an earlier run tells about the times that a plan needs: steps, evaluations, saves, restarts and the queue."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data_pipelines.errors import UserError
from launch.slurm.agent_links import LOST_NODE
from launch.status.attempt_facts import AttemptFacts, read_facts
from launch.status.ledger import AttemptSummary, global_batch, read_attempts
from trainer.checkpoints.store import CheckpointStore
from trainer.runs.records import read_ledger, read_records
from trainer.runs.run_folder import RunFolder, open_run
from trainer.runs.run_lock import is_held


@dataclass(frozen=True)
class Measured:
    """A number of an earlier run, and how often it was measured."""

    value: float
    count: int
    what: str
    """What was counted."""


def measured_times(path: RunFolder) -> Mapping[str, Measured]:
    """Return what a run's records tell, by the name of the field of `Assumptions`, and `images` of an epoch.

    Raises:
        UserError: there is no run, or its records tell nothing that a plan needs.
    """
    run = open_run(path.path)
    records = read_ledger(run.ledger)
    saved = CheckpointStore(run.checkpoints).newest_step()
    history = read_attempts(run, running=is_held(run.path), saved=saved)
    pairs = list(zip(read_facts(records, history), history, strict=False))
    pairs = [(one, attempt) for one, attempt in pairs if one.tells_times]
    trained = [r for r in read_records(run.metrics) if r.get("kind") == "train"]
    config = run.read_config()
    per_epoch = _steps_per_epoch(trained)
    found: dict[str, Measured] = {}
    if per_epoch:
        found["images"] = Measured(per_epoch * global_batch(run), len(trained), "records")
    ordered = [
        (one, attempt.first_step + attempt.kept)
        for one, attempt in pairs
        if one.end is not None and not one.has_failed and one.made > 1
    ]
    if ordered and per_epoch:
        copies_every = config.checkpoint.replicate_every if config.parallel.zero_stage else 0
        found |= _of_steps(ordered, config.checkpoint.interval(round(per_epoch)), copies_every)
    elif speeds := [s for r in trained if (s := r.get("time", {}).get("images_per_second"))]:
        # Of attempts that were killed, the ledger does not tell the time of saves.
        seconds = global_batch(run) * statistics.fmean(1 / speed for speed in speeds)
        found["step_seconds"] = Measured(seconds, len(speeds), "records")
    if "step_seconds" in found:
        found |= _of_restarts(pairs, found["step_seconds"].value, config.metrics.log_every)
    if not found.keys() - {"images"}:
        raise UserError(
            "the records of this run tell no times",
            where=run.path,
            fix="give a run that has made steps with this version, or leave --from-run out",
        )
    return found


def _steps_per_epoch(trained: Sequence[Mapping[str, float]]) -> float | None:
    newest = next((r for r in reversed(trained) if r.get("epoch")), None)
    return newest["step"] / newest["epoch"] if newest else None


def _of_steps(
    ordered: Sequence[tuple[AttemptFacts, int]], every_steps: int, copies_every: int
) -> dict[str, Measured]:
    """Return the times of steps, evaluations and saves, from attempts that ended in order.

    Args:
        ordered: the attempts, each with its last step.
        every_steps: steps between checkpoints. 0: only at the end.
        copies_every: steps between copies for neighbors, which count as saves: they take about as long. 0: none.
    """
    timed = training = evaluating = saving = 0.0
    saves = steps = 0
    for one, last in ordered:
        assert one.first_step is not None
        assert one.end is not None
        late = sum(seconds for at, seconds in one.evaluations if at > one.first_step)
        training += max(0.0, one.end - one.first_step - late - one.saving)
        timed += one.made - 1
        evaluating += sum(seconds for _, seconds in one.evaluations)
        steps += one.made
        saving += one.saving
        saves += last // every_steps - (last - one.made) // every_steps if every_steps else 0
        saves += (
            (one.made - 1) // copies_every if copies_every and one.devices > 1 else 0
        )  # none at the last step
        saves += not every_steps or last % every_steps != 0
    return {
        "step_seconds": Measured(training / timed, int(timed), "steps"),
        "evaluation_seconds": Measured(evaluating / steps, steps, "steps"),
        "save_seconds": Measured(saving / max(1, saves), saves, "saves"),
    }


def _of_restarts(
    pairs: Sequence[tuple[AttemptFacts, AttemptSummary]], step: float, log_every: int
) -> dict[str, Measured]:
    """Return the times of starts, restarts, waits and of what is noticed late, as medians.

    A failure comes some time after the last record before it: half a step and half of the steps between two records, on
    average. After the loss of a node, a restart in place takes longer than after that of a rank, by the time until it
    is noticed.
    """
    unrecorded = step * (0.5 + (log_every - 1) / 2)
    times = defaultdict[str, list[float]](list)
    replacements: list[float] = []
    for position, (one, _) in enumerate(pairs):
        before, ended = pairs[position - 1] if position else (None, None)
        if one.first_step is None:
            continue
        early = sum(seconds for at, seconds in one.evaluations if at <= one.first_step)
        starting = max(0.0, one.first_step - one.start - early)
        if before is None or ended is None or before.end is None or not _is_in_place(one, before):
            waited = one.start - one.allocated if one.allocated is not None else 0.0
            times["start_seconds"].append(starting + max(0.0, waited))
            if one.submitted is not None and one.allocated is not None:
                times["queue_seconds"].append(max(0.0, one.allocated - one.submitted))
            if before is not None and ended is not None and _is_requeued(one, before):
                times[_noticed(ended)].append(max(0.0, _dead_until_requeue(one, before) - unrecorded))
            continue
        sign = before.last_sign(one, None)
        dead = before.end - sign if sign is not None else 0.0
        # Between processes on one machine, `status` counts no device.
        between = one.start - before.end if one.job is not None else 0.0
        restart = max(0.0, max(0.0, dead) + max(0.0, between) + starting - unrecorded)
        (replacements if LOST_NODE in ended.message else times["in_place_seconds"]).append(restart)
    if in_place := times["in_place_seconds"]:
        usual = statistics.median(in_place)
        times["detection_seconds"] += [max(0.0, restart - usual) for restart in replacements]
    return {
        name: Measured(statistics.median(values), len(values), _WHAT[name])
        for name, values in times.items()
        if values
    }


_WHAT = {
    "start_seconds": "starts",
    "in_place_seconds": "restarts",
    "queue_seconds": "waits",
    "detection_seconds": "lost nodes",
    "first_detection_seconds": "lost first nodes",
    "release_seconds": "requeues",
}


def _is_in_place(one: AttemptFacts, before: AttemptFacts) -> bool:
    """Whether an attempt follows a failure and began without a new allocation."""
    same = one.is_in_same_allocation(before) or (one.job is None and before.job is None)
    return same and before.has_failed


def _is_requeued(one: AttemptFacts, before: AttemptFacts) -> bool:
    """Whether SLURM started the job again after a failure whose end is on record."""
    same = one.job is not None and one.job == before.job and one.restart != before.restart
    return same and before.has_failed and before.end is not None and before.last_sign(one, None) is not None


def _noticed(ended: AttemptSummary) -> str:
    """Return the name of the time from a failure to the requeue: what was lost tells it."""
    if LOST_NODE not in ended.message:
        return "release_seconds"
    return "first_detection_seconds" if ended.message.startswith("rank 0 ") else "detection_seconds"


def _dead_until_requeue(one: AttemptFacts, before: AttemptFacts) -> float:
    """Return the seconds from the last record before a failure until `status` counts no device any more."""
    sign = before.last_sign(one, None)
    assert before.end is not None
    assert sign is not None
    given_back = max(before.end, one.submitted or before.end)
    return min(given_back, one.start) - sign
