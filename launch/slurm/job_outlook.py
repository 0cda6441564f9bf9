"""What the first agent of a job asks: of the run's settings, its checkpoints and its ledger."""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from data_pipelines.log import LOGGER
from launch.local.processes import Failure
from launch.local.recovery import RunRecovery
from launch.local.runs import may_shrink
from launch.node_check.record import NODE_CHECK
from launch.slurm.first_agent import Outlook
from launch.slurm.record_failure import record_failure
from launch.slurm.start_check import CheckPlan
from trainer.config.schema import Config
from trainer.runs.end_reasons import REASONS, EndReason
from trainer.runs.records import read_ledger
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import RunLock


def outlook(run: RunFolder, lock: RunLock, nodes: int) -> Outlook:
    """Return what the first agent of a job asks.

    Args:
        run: the run.
        lock: its lock, which this process holds.
        nodes: number of nodes of the job, spares included.
    """
    config = run.read_config()
    asked = config.slurm
    if asked.spares and (spares := nodes - asked.nodes) < asked.spares:
        LOGGER.warning("SLURM had %d of %d spare nodes when the job started", spares, asked.spares)
    return Outlook(
        RunRecovery(run, lock),
        partial(_may_have, run),
        partial(_reason, run),
        partial(_give_up, run),
        _check_plan(run, config, nodes),
    )


def _check_plan(run: RunFolder, config: Config, nodes: int) -> CheckPlan | None:
    """Return how the nodes of a job are checked. None: they are not."""
    wanted = config.slurm.check_nodes
    if not (nodes > 1 if wanted is None else wanted):
        return None
    # A stream names its shards by a pattern, and a remote set is on no disk of the cluster. Of several sets, the first
    # one on a disk stands for all.
    places = config.data.train_places if config.data.reader == "index" else ()
    data = next((place for place in places if isinstance(place, Path)), None)
    return CheckPlan(data, config.slurm.check_tolerance, partial(_note_check, run))


def _note_check(run: RunFolder, facts: Mapping[str, Any]) -> None:
    with suppress(OSError):  # training must go on
        run.note(NODE_CHECK, attempt=run.attempts() + 1, **facts)


def _may_have(run: RunFolder, ranks: int) -> bool:
    """Return whether a run may go on with another number of ranks."""
    return may_shrink(run.read_config(), ranks)


def _give_up(run: RunFolder, failure: Failure) -> str:
    record_failure(run, failure.code, failure.message)
    return EndReason.LOST_RANK


def _reason(run: RunFolder, code: int) -> str:
    """Return the reason that rank 0 has recorded for the end of the newest attempt."""
    last = next((r for r in reversed(read_ledger(run.ledger)) if r["event"] in ("start", "end")), None)
    if last is not None and last["event"] == "end":
        return str(last["reason"])
    return REASONS.get(code, EndReason.ERROR)
