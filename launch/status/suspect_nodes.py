"""Machines that failures point at, and how they are left out. Light to import."""

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain, product
from pathlib import Path

from data_pipelines.errors import UserError
from launch.status.ledger import AttemptSummary, read_attempts
from trainer.runs.ends import EndReason
from trainer.runs.run_folder import RunFolder, open_run, runs_below
from trainer.runs.run_lock import is_held

_OF_A_MACHINE = {
    EndReason.KILLED,
    EndReason.STALLED,
    EndReason.LOST_RANK,
    EndReason.NO_END,
    EndReason.CUT_OFF,
}
_NAMED = re.compile(r"(\S+), tasks? \S+: ")
_NO_MEMORY = re.compile(r"memory ran out|out of memory", re.IGNORECASE)
_PART = re.compile(r"\[([^\]]*)\]|([^\[\],]+)")


def failures(attempts: Iterable[AttemptSummary]) -> list[AttemptSummary]:
    """Attempts whose end may be a machine's fault: killed, stalled, cut off, without an end, or with an error of a
    process that srun names. Where memory ran out the fault is the job's."""
    return [a for a in attempts if a.nodes and _may_be_a_machines(a)]


def _may_be_a_machines(attempt: AttemptSummary) -> bool:
    if _NO_MEMORY.search(attempt.message):
        return False
    return attempt.reason in _OF_A_MACHINE or (
        attempt.reason == EndReason.ERROR and _named(attempt) is not None
    )


def suspect_nodes(attempts: Sequence[AttemptSummary]) -> list[str]:
    """Machines that are likely broken, in order.

    One that is named by at least two failures is suspect; so is one that was in all failures that name none, where
    these are at least two and at most half of the machines that the attempts had were in all of them: a run that only
    ever had the same machines says nothing about any of them.
    """
    failed = failures(attempts)
    named = [name for a in failed if (name := _named(a)) is not None]
    found = {name for name in named if named.count(name) >= 2}
    unnamed = [set(expand_hostlist(a.nodes)) for a in failed if _named(a) is None]
    if len(unnamed) >= 2:
        common = set.intersection(*unnamed)
        if 2 * len(common) <= len({name for a in attempts for name in expand_hostlist(a.nodes)}):
            found |= common
    return sorted(found)


def times_in_failures(name: str, attempts: Iterable[AttemptSummary]) -> str:
    """How often a machine was in attempts that failed, in words."""
    failed = failures(attempts)
    count = sum(name in expand_hostlist(attempt.nodes) for attempt in failed)
    return f"{name} was in {count} of {len(failed)} attempts that failed"


def excluded_from_new(recipe: str, overrides: Sequence[str]) -> list[str]:
    """The override that leaves suspects of the other runs in `run.folder` out of a new one, besides those that its
    settings leave out; it says which. None where there are no suspects."""
    from launch.slurm.user_settings import slurm_defaults
    from trainer.config.schema import load_config

    config = load_config(recipe, overrides, slurm_defaults())
    histories = []
    for run in runs_below(config.run.folder):
        with suppress(UserError):  # of another program, or torn: it says nothing about machines
            histories.append(_history(run))
    return _excluded(histories, config.slurm.exclude)


def excluded_from_resumed(path: Path, overrides: Sequence[str]) -> list[str]:
    """The same of a run's own suspects, for its next job.

    Raises:
        UserError: there is no run, or the overrides do not fit it.
    """
    from launch.local.runs import settings_on_resume

    run = open_run(path)
    return _excluded([_history(run)], settings_on_resume(run, overrides).slurm.exclude)


def _history(run: RunFolder) -> list[AttemptSummary]:
    return read_attempts(run, running=is_held(run.path), saved=0)


def _excluded(histories: Sequence[Sequence[AttemptSummary]], before: str) -> list[str]:
    """A machine may also be suspect by failures of several runs together."""
    together = list(chain.from_iterable(histories))
    found = sorted({name for history in (*histories, together) for name in suspect_nodes(history)})
    new = [name for name in found if name not in expand_hostlist(before)]
    for name in new:
        print(f"left out: {times_in_failures(name, together)}")
    if not new:
        print("no other machine is suspect")
        return []
    return [f"slurm.exclude={json.dumps(','.join([*filter(None, [before]), *new]))}"]


def _named(attempt: AttemptSummary) -> str | None:
    """The machine whose process srun says ended first."""
    match = _NAMED.match(attempt.message)
    return match[1] if match else None


def expand_hostlist(short: str) -> list[str]:
    """Names of the machines in SLURM's short form: `node[1-2,07],gpu1` is node1, node2, node07 and gpu1.

    Raises:
        ValueError: a bracket holds something else than numbers and ranges.
    """
    names: list[str] = []
    for word in re.findall(r"(?:\[[^\]]*\]|[^\[\],])+", short):
        parts = [_numbers(match[1]) if match[1] is not None else [match[2]] for match in _PART.finditer(word)]
        names += ["".join(choice) for choice in product(*parts)]
    return names


def _numbers(ranges: str) -> list[str]:
    found = []
    for one in ranges.split(","):
        first, _, last = one.partition("-")
        found += [f"{n:0{len(first)}d}" for n in range(int(first), int(last or first) + 1)]
    return found
