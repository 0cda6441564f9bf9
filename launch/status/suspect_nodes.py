"""Suspect nodes: find the nodes that failures point at, and exclude them. Light to import."""

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from data_pipelines.errors import UserError
from launch.slurm.hostlist import expand_hostlist
from launch.status.ledger import AttemptSummary, read_attempts
from trainer.runs.end_reasons import EndReason
from trainer.runs.run_folder import RunFolder, open_run, runs_below
from trainer.runs.run_lock import is_held

_NODE_REASONS = {
    EndReason.KILLED,
    EndReason.STALLED,
    EndReason.LOST_RANK,
    EndReason.NO_END,
    EndReason.CUT_OFF,
}
_NAMED = re.compile(r"(?:(\S+), tasks? \S+: |rank \d+ on (\S+) )")
_DIFFERED = re.compile(r"the state of rank \d+ on (\S+) differs from that of most ranks")
_NO_MEMORY = re.compile(r"memory ran out|out of memory(?!\?)", re.IGNORECASE)


def failures(attempts: Iterable[AttemptSummary]) -> list[AttemptSummary]:
    """Return the attempts whose end may be caused by a node.

    These are attempts that were killed, stalled or cut off, have no recorded end, failed with an error of a process
    that srun or an agent names, or had a rank whose state differed from that of the others. Running out of memory is a
    fault of the job, not of the node.
    """
    return [a for a in attempts if a.nodes and _may_be_caused_by_node(a)]


def _may_be_caused_by_node(attempt: AttemptSummary) -> bool:
    if _NO_MEMORY.search(attempt.message):
        return False
    return attempt.reason in _NODE_REASONS or (
        attempt.reason == EndReason.ERROR and _named(attempt) is not None
    )


def suspect_nodes(attempts: Sequence[AttemptSummary]) -> list[str]:
    """Return the nodes that are probably broken, sorted.

    A node is suspect if at least two failures name it, if one of its ranks has computed at least 15 % longer than the
    median for 100 steps, or if a check before the start of a job found it bad. A node is also suspect if it took part
    in every one of at least two failures that name no node. This last rule applies only if at most half of all nodes
    took part in every such failure. Otherwise the failures do not distinguish between the nodes.
    """
    failed = failures(attempts)
    named = [name for a in failed if (name := _named(a)) is not None]
    found = {name for name in named if named.count(name) >= 2}
    unnamed = [set(expand_hostlist(a.nodes)) for a in failed if _named(a) is None]
    if len(unnamed) >= 2:
        common = set.intersection(*unnamed)
        if 2 * len(common) <= len({name for a in attempts for name in expand_hostlist(a.nodes)}):
            found |= common
    # A node outside of SLURM cannot be excluded.
    found |= {name for a in attempts if a.nodes for name in (*a.slow_nodes, *a.bad_nodes)}
    return sorted(found)


def times_in_failures(name: str, attempts: Iterable[AttemptSummary]) -> str:
    """Describe in how many failed attempts a node took part, in how many it was slow, and before how many a check found
    it bad."""
    attempts = list(attempts)
    failed = failures(attempts)
    count = sum(name in expand_hostlist(attempt.nodes) for attempt in failed)
    slow = sum(name in attempt.slow_nodes for attempt in attempts)
    bad = sum(name in attempt.bad_nodes for attempt in attempts)
    said = [f"was in {count} of {len(failed)} failed attempts"] if count or not (slow or bad) else []
    if slow:
        said.append(f"was slow in {slow} of {len(attempts)} attempts")
    if bad:
        said.append(f"was bad in the check before {bad} of {len(attempts)} attempts")
    return f"{name} {' and '.join(said)}"


def excluded_from_new(recipe: str, overrides: Sequence[str]) -> list[str]:
    """Return the override that excludes suspects of all runs in `run.folder` from a new run, and print their names."""
    from launch.slurm.user_settings import slurm_defaults
    from trainer.config.schema import load_config

    config = load_config(recipe, overrides, slurm_defaults())
    return excluded_by_runs(config.run.folder, config.slurm.exclude)


def excluded_by_runs(folder: Path, before: str) -> list[str]:
    """Return the override that excludes suspects of all runs in a folder, and print their names.

    Nodes that are excluded before stay excluded. Without suspects, the list is empty.
    """
    histories = []
    for run in runs_below(folder):
        with suppress(UserError):  # damaged or written by another program
            histories.append(_history(run))
    return _excluded(histories, before)


def excluded_from_resumed(path: Path, overrides: Sequence[str]) -> list[str]:
    """Return the override that excludes a run's own suspects from its next job.

    Raises:
        UserError: there is no run, or the overrides do not fit it.
    """
    from launch.local.runs import settings_on_resume

    run = open_run(path)
    return _excluded([_history(run)], settings_on_resume(run, overrides).slurm.exclude)


def _history(run: RunFolder) -> list[AttemptSummary]:
    return read_attempts(run, running=is_held(run.path), saved=0)


def _excluded(histories: Sequence[Sequence[AttemptSummary]], before: str) -> list[str]:
    """Return the override. A node may also be suspect because of the failures of several runs together."""
    together = list(chain.from_iterable(histories))
    found = sorted({name for history in (*histories, together) for name in suspect_nodes(history)})
    new = [name for name in found if name not in expand_hostlist(before)]
    for name in new:
        print(f"excluded: {times_in_failures(name, together)}")
    if not new:
        print("no further node is suspect")
        return []
    return [f"slurm.exclude={json.dumps(','.join([*filter(None, [before]), *new]))}"]


def _named(attempt: AttemptSummary) -> str | None:
    """Return the node whose process ended first, according to srun or an agent, whose rank hung, or whose state
    differed."""
    match = _NAMED.match(attempt.message) or _DIFFERED.search(attempt.message)
    return next(filter(None, match.groups())) if match else None
