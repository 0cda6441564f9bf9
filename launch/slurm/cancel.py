"""`all4one cancel`: the jobs of one or several runs save a checkpoint and end. Loads no torch.

`scancel` alone gives a job's processes KillWait seconds, 30 by default, which a long step or a slow disk exceeds. The
processes are therefore interrupted first, and the job is cancelled once they have ended.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from launch.slurm import slurm_commands
from launch.slurm.submitted_jobs import Submissions
from trainer.runs.records import read_ledger
from trainer.runs.run_folder import RunFolder, open_run, runs_below

_LOOK_SECONDS = 1.0
_TELL_SECONDS = 15.0
"""Time between messages while the command waits, seconds."""


def cancel(path: Path, timeout: float) -> None:
    """Cancel the newest jobs of a run, or of all runs in a folder, and wait for their end.

    Args:
        path: folder of a run, or folder of several runs.
        timeout: how long the processes may take to save and end, seconds. After it, the jobs are ended at once.

    Raises:
        UserError: there is no submitted run, or SLURM cannot be asked.
    """
    chains = _chains(path)
    known = slurm_commands.jobs(number for chain in chains.values() for number in chain)
    live = {
        number: run
        for run, chain in chains.items()
        for number in chain
        if number in known and not known[number].over
    }
    if not live:
        print(_nothing(chains, known))
        return
    running = [number for number in live if known[number].state != "PENDING"]
    # Newest first, because the end of a job starts the next one in the chain.
    for number in reversed([number for number in live if number not in running]):
        slurm_commands.cancel(number)
    for number in running:
        Submissions(live[number]).request_cancel(number)
    late = _wait(running, timeout)
    for number in late:
        slurm_commands.cancel(number)
    for number, run in live.items():
        print(_result(number, run, number in running, number in late), flush=True)
    what, first = "the run" if len(chains) == 1 else "one", next(iter(live.values()))
    print(f"resume {what} with: all4one resume {quoted(first.path)}")


def _chains(path: Path) -> dict[RunFolder, list[str]]:
    """Return the newest jobs of each submitted run at a path."""
    if RunFolder(path).config.is_file() or not (runs := runs_below(path)):
        run = open_run(path)
        return {run: Submissions(run).required()}
    chains = {run: chain for run in runs if (chain := Submissions(run).newest_chain())}
    if not chains:
        raise UserError("no run in this folder was submitted to SLURM", where=path)
    return chains


def _nothing(chains: Mapping[RunFolder, Sequence[str]], known: Mapping[str, slurm_commands.Job]) -> str:
    if len(chains) > 1:
        return f"none of the {len(chains)} runs has a job that is queued or runs: nothing to cancel"
    number = next(iter(chains.values()))[-1]
    state = known[number].state.lower() if number in known else "no longer known to SLURM"
    return f"job {number} is {state}: nothing to cancel"


def _wait(numbers: Sequence[str], timeout: float) -> set[str]:
    """Interrupt jobs until they are over. Return those that are not over in time."""
    begun = time.monotonic()
    told = 0.0
    left = set(numbers)
    while left and (waited := time.monotonic() - begun) < timeout:
        if waited >= told:
            jobs = f"job {', '.join(sorted(left))}" if len(left) < 6 else f"{len(left)} jobs"
            print(f"{jobs}: waiting up to {timeout - waited:.0f} s for a checkpoint and the end", flush=True)
            told = waited + _TELL_SECONDS
            for number in left:  # again, because a job that is just starting has no processes yet
                with suppress(UserError):  # it has just ended
                    slurm_commands.interrupt(number)
        time.sleep(min(_LOOK_SECONDS, timeout))
        try:
            found = slurm_commands.jobs(left)
        except slurm_commands.Unanswered as error:
            print(f"warning: {error.what}", file=sys.stderr)
            continue
        left = {number for number in left if number in found and not found[number].over}
        for number in left:
            if found[number].state == "PENDING":  # it was requeued just before it was interrupted
                with suppress(UserError):  # asked again at the next look
                    slurm_commands.cancel(number)
    return left


def _result(number: str, run: RunFolder, was_running: bool, is_late: bool) -> str:
    if not was_running:
        return f"{run.path}: job {number} was waiting and is cancelled"
    ends = [r for r in read_ledger(run.ledger) if r["event"] == "end" and r.get("step") is not None]
    if is_late:
        return f"{run.path}: job {number} did not end in time and was cancelled, perhaps without a checkpoint"
    if not ends or not ends[-1]["step"]:
        return f"{run.path}: job {number} is cancelled; it had made no step"
    return f"{run.path}: job {number} saved step {ends[-1]['step']} and is cancelled"
