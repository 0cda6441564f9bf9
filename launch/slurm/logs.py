"""`all4one logs` and `submit --follow`: the output of a run's processes, across restarts. Loads no torch."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from launch.slurm import slurm_commands
from launch.slurm.submitted_jobs import Submissions
from trainer.runs.run_folder import RunFolder, open_run

LOOK_SECONDS = 0.5
ASK_SECONDS = 5.0
"""Time between requests to SLURM, seconds. A controller serves many users."""
SETTLE_SECONDS = 30.0
"""How long a job must stay preempted or in node failure until it counts as over, seconds. A job also shows these
states before a requeue."""


def show(path: Path, rank: int, *, follow_it: bool) -> int:
    """Print a rank's newest output. With `follow_it`, follow the output until the job is over. Returns the exit
    code."""
    run = open_run(path)
    if follow_it:
        return follow(run, rank)
    files = _outputs(run, rank)
    if not files:
        raise UserError(
            f"rank {rank} has printed nothing yet",
            where=run.logs,
            fix=f"`all4one status {quoted(run.path)}` shows why the job waits",
        )
    sys.stdout.write(files[-1].read_text(errors="replace"))
    return 0


def follow(run: RunFolder, rank: int) -> int:
    """Print a rank's output of the newest start and of later starts as it comes, until the job is over.

    Returns 0 if the run is finished, otherwise 1.
    """
    chain = Submissions(run).required()
    try:
        return _follow(run, rank, chain)
    except KeyboardInterrupt:
        print(
            f"job {', '.join(chain)} continues. Cancel it with `all4one cancel {quoted(run.path)}`",
            file=sys.stderr,
        )
        raise


def _follow(run: RunFolder, rank: int, chain: Sequence[str]) -> int:
    end = _End(chain)
    shown = {path: path.stat().st_size for path in _outputs(run, rank, chain)[:-1]}
    while True:
        over = end.reached()
        for path in _outputs(run, rank, chain):
            with path.open("rb") as file:
                file.seek(shown.get(path, 0))
                new = file.read()
            if new and path not in shown:
                print(f"==> {path} <==", file=sys.stderr)
            shown[path] = shown.get(path, 0) + len(new)
            sys.stdout.write(new.decode(errors="replace"))
        sys.stdout.flush()
        if over:
            print(end.said, file=sys.stderr)
            return 0 if run.is_finished() else 1
        time.sleep(LOOK_SECONDS)


class _End:
    """Finds out whether a job, or all jobs of a chain, are over."""

    def __init__(self, chain: Sequence[str]) -> None:
        self._chain = chain
        self._asked, self._since = 0.0, 0.0
        self.said = ""

    def reached(self) -> bool:
        now = time.monotonic()
        if now - self._asked < ASK_SECONDS:
            return False
        self._asked = now
        try:
            known = slurm_commands.jobs(self._chain)
        except slurm_commands.Unanswered as error:
            if error.what != self.said:
                print(error.what, file=sys.stderr)
            self.said = error.what
            return False
        if not all(job.over for job in known.values()):
            self._since = 0.0
            return False
        job = known.get(self._chain[-1])
        state = job.state.lower() if job else "no longer known to SLURM"
        self.said = f"job {self._chain[-1]} is {state}"
        if job is None or job.state not in ("NODE_FAIL", "PREEMPTED"):
            return True
        self._since = self._since or now
        return now - self._since > SETTLE_SECONDS


def _outputs(run: RunFolder, rank: int, jobs: Sequence[str] | None = None) -> list[Path]:
    """Return a rank's output files of all jobs, or of the given jobs, oldest first."""
    folders = ["*"] if jobs is None else [f"slurm_{number}_*" for number in jobs]
    found = [path for folder in folders for path in run.logs.glob(f"{folder}/rank_{rank}.log")]
    return sorted(found, key=lambda path: path.parent.stat().st_mtime)
