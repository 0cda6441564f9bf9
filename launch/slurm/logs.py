"""`all4one logs` and `submit --follow`: the output of the processes of a run or of several runs. Loads no torch."""

import sys
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from launch.slurm import slurm_commands
from launch.slurm.run_output import RunOutput
from launch.slurm.submitted_jobs import Submissions
from trainer.runs.records import read_ledger
from trainer.runs.run_folder import RunFolder, open_run, runs_below
from trainer.runs.run_lock import is_held

LOOK_SECONDS = 0.5
"""Time between looks at the files of up to `_RUNS_PER_LOOK` runs, seconds."""
_RUNS_PER_LOOK = 20
ASK_SECONDS = 5.0
"""Time between requests to SLURM, seconds. A controller serves many users."""
SETTLE_SECONDS = 30.0
"""How long a job must stay preempted or in node failure until it counts as over, seconds. A job also shows these
states before a requeue."""


def show(path: Path, rank: int, *, follow_it: bool) -> int:
    """Print a rank's newest output in a run, or in each run of a folder. Returns the exit code.

    Args:
        path: folder of a run, or folder of several runs. Lines of several runs begin with the name of their run.
        rank: the rank.
        follow_it: follow the output until the runs are over.

    Raises:
        UserError: there is no run, or the rank has printed nothing.
    """
    is_single = RunFolder(path).config.is_file() or not (found := runs_below(path))
    runs = {open_run(path): ""} if is_single else {run: str(run.path.relative_to(path)) for run in found}
    if follow_it:
        return _follow(runs, rank, path)
    silent = [run for run, name in runs.items() if not RunOutput(run, rank, name=name).print_new()]
    if len(silent) == len(runs):
        raise UserError(
            f"rank {rank} has printed nothing yet",
            where=silent[0].logs if is_single else path,
            fix=f"`all4one status {quoted(path)}` shows why",
        )
    if silent:
        print(f"no output of rank {rank}: {', '.join(runs[run] for run in silent)}", file=sys.stderr)
    return 0


def follow(run: RunFolder, rank: int) -> int:
    """Print a rank's output of the newest start and of later starts as it comes, until the run is over.

    Returns 0 if the run is finished, otherwise 1.
    """
    return _follow({run: ""}, rank, run.path)


def _follow(names: dict[RunFolder, str], rank: int, path: Path) -> int:
    """Follow runs, each with the name that is printed before its lines."""
    ends = _Ends(list(names))
    over = ends.newly_over() if len(names) > 1 else {}
    if over:
        left_out = ", ".join(names[run] for run in over)
        print(f"not followed, because they are over: {left_out}", file=sys.stderr)
    live = {
        run: RunOutput(run, rank, ends.chains[run] or None, name)
        for run, name in names.items()
        if run not in over
    }
    try:
        _follow_until_over(live, ends)
    except KeyboardInterrupt:
        what = "the run continues. Cancel it" if len(names) == 1 else "the runs continue. Cancel them"
        print(f"{what} with `all4one cancel {quoted(path)}`", file=sys.stderr)
        raise
    return 0 if all(run.is_finished() or run.pruned.exists() for run in names) else 1


def _follow_until_over(live: dict[RunFolder, RunOutput], ends: "_Ends") -> None:
    while live:
        over = ends.newly_over()
        for output in live.values():
            output.print_new()
        for run, why in over.items():
            live[run].end_line()
            live.pop(run).tell(why)
        if live:
            time.sleep(LOOK_SECONDS * (1 + len(live) // _RUNS_PER_LOOK))


class _Ends:
    """Finds out which runs are over."""

    def __init__(self, runs: Sequence[RunFolder]) -> None:
        self.chains = {run: Submissions(run).newest_chain() for run in runs}
        """The newest jobs of each run. Empty: the run was not submitted."""
        self._left = list(runs)
        self._asked = float("-inf")
        self._since: dict[RunFolder, float] = {}
        """When a job that may be requeued was first seen to be over."""
        self._problem = ""

    def newly_over(self) -> dict[RunFolder, str]:
        """Return the runs that have turned out to be over since the last call, each with how it ended."""
        now = time.monotonic()
        if now - self._asked < ASK_SECONDS:
            return {}
        self._asked = now
        try:
            known = slurm_commands.jobs(chain.from_iterable(self.chains[run] for run in self._left))
        except slurm_commands.Unanswered as error:
            if error.what != self._problem:
                print(error.what, file=sys.stderr)
            self._problem = error.what
            return {}
        over = {run: why for run in self._left if (why := self._why_over(run, known, now)) is not None}
        self._left = [run for run in self._left if run not in over]
        return over

    def _why_over(self, run: RunFolder, known: dict[str, slurm_commands.Job], now: float) -> str | None:
        numbers = self.chains[run]
        if any(number in known and not known[number].over for number in numbers) or is_held(run.path):
            self._since.pop(run, None)
            return None
        if not numbers:
            ends = [record["reason"] for record in read_ledger(run.ledger) if record["event"] == "end"]
            return f"the run is not running: {ends[-1]}" if ends else "the run is not running"
        job = known.get(numbers[-1])
        state = job.state.lower() if job else "no longer known to SLURM"
        may_return = job is not None and job.state in ("NODE_FAIL", "PREEMPTED")
        if may_return and now - self._since.setdefault(run, now) <= SETTLE_SECONDS:
            return None
        return f"job {numbers[-1]} is {state}"
