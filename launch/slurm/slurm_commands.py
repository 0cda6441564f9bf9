"""Calls of SLURM's commands. They work with and without accounting."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.errors import UserError

ANSWER_SECONDS = 30.0
"""How long a command may take, seconds. The commands keep trying a controller that is down."""
_OVER = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}

_FILTERS = ("SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_")
"""Variables with which users change what these commands show or cancel. They must not hide jobs from us."""
_NO_NODES = "None assigned"
"""Value of the accounting for the nodes of a job that never began."""


class Unanswered(UserError):
    """SLURM's controller does not answer at present."""


@dataclass(frozen=True)
class Job:
    """A job as SLURM knows it."""

    number: str
    state: str
    """State in SLURM's capitals, such as RUNNING."""
    nodes: str
    """Nodes as a SLURM hostlist. Empty if it has none yet."""
    why: str = ""
    """The reason for which a pending job waits."""

    @property
    def over(self) -> bool:
        """Whether the job is over and will not run again."""
        return self.state in _OVER


def current(chain: Sequence[str], known: Mapping[str, Job]) -> str | None:
    """Return the number of the first job of a chain that is not over. If all are over, return the last one that began,
    or the first one if none began. None: the chain is empty."""
    live = [number for number in chain if number in known and not known[number].over]
    begun = [number for number in chain if number in known and known[number].nodes]
    return next(iter([*live, *reversed(begun), *chain]), None)


def jobs(numbers: Iterable[str], seconds: float = ANSWER_SECONDS) -> dict[str, Job]:
    """Return jobs by number. The number of an array's element is such as 123_4. Jobs unknown to SLURM are left out.

    Args:
        numbers: numbers of the jobs.
        seconds: how long the controller may take, and after it the accounting.

    Raises:
        Unanswered: the controller is down.
        UserError: this machine has no SLURM commands.
    """
    wanted = sorted(set(numbers))
    if not wanted:
        return {}
    listed = "--jobs=" + ",".join(wanted)
    try:
        rows = ask(  # --array: one line for each pending element
            "squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%N|%r", listed, seconds=seconds
        ).splitlines()
    except Unanswered:
        raise
    except UserError as error:
        if "Invalid job id" not in error.what:
            raise
        rows = []
    found = {row.split("|")[0]: Job(*row.split("|", 3)) for row in rows}
    return found | _accounted([number for number in wanted if number not in found], seconds)


def _accounted(numbers: list[str], seconds: float) -> dict[str, Job]:
    """Return jobs that the controller has forgotten from the accounting. Empty if the cluster has no accounting, or if
    it does not answer within `seconds`."""
    if not numbers:
        return {}
    try:
        rows = ask(
            "sacct",
            "--noheader",
            "--parsable2",
            "--allocations",
            "--format=JobID,State,NodeList",
            "--jobs=" + ",".join(numbers),
            seconds=seconds,
        ).splitlines()
    except UserError:
        return {}
    told = [row.split("|") for row in rows]
    return {
        number: Job(number, state.split()[0], "" if nodes == _NO_NODES else nodes)
        for number, state, nodes in told
    }


def cancel(*numbers: str) -> None:
    """Cancel jobs. They save a checkpoint and do not start again."""
    ask("scancel", *numbers)


def interrupt(number: str) -> None:
    """Send SIGINT to the processes of a running job, but not to its script. Its ranks save a checkpoint and end."""
    ask("scancel", "--signal=INT", number)


def refusal(script: Path) -> UserError | None:
    """Return why SLURM would refuse a job, from `sbatch --test-only`. None: it would take the job."""
    try:
        ask("sbatch", "--test-only", str(script))
    except Unanswered as error:
        return error
    except UserError as error:
        lines = [line.removeprefix("sbatch: error: ") for line in error.what.splitlines()]
        lines = [line.removeprefix("allocation failure: ") for line in lines if line.strip()]
        what = "; ".join(dict.fromkeys(lines))
        return UserError(f"SLURM would refuse the job: {what}", fix=_fix(what))
    return None


def _fix(refused: str) -> str:
    if "partition" in refused.lower():
        return f"set --partition to one of {', '.join(_partitions()) or 'those that `sinfo` lists'}"
    if "account" in refused.lower():
        return "set --account to one that `sacctmgr show associations user=$USER` lists"
    if "time" in refused.lower():
        return "use a shorter --time, or a --partition or --qos that allows it"
    return (
        "change --nodes, --gpus-per-node, --cpus-per-task or --mem. "
        "`sinfo --Node --long` lists the resources of all nodes"
    )


def _partitions() -> list[str]:
    try:
        return sorted(set(ask("sinfo", "--noheader", "--format=%R").split()))
    except UserError:
        return []


def facts(number: str, seconds: float = ANSWER_SECONDS) -> dict[str, str]:
    """Return the controller's facts on one job, by SLURM's names (`JobState`, `PreemptTime`, …), within `seconds`.

    Raises:
        Unanswered: the controller is down.
        UserError: it does not know the job.
    """
    return dict(
        re.findall(r"(\w+)=(\S*)", ask("scontrol", "--oneliner", "show", "job", number, seconds=seconds))
    )


def ask(*command: str, seconds: float = ANSWER_SECONDS) -> str:
    """Run one of SLURM's commands for at most `seconds` seconds. Returns its output.

    Raises:
        Unanswered: the controller is down.
        UserError: the command failed, with its error output, or there is no such command.
    """
    if shutil.which(command[0]) is None:
        raise UserError(
            f"there is no command {command[0]} on this machine", fix="run this on a login node of the cluster"
        )
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith(_FILTERS)},
        )
    except subprocess.TimeoutExpired:
        raise _unanswered(f"no answer in {seconds:.0f} s") from None
    said = done.stderr.strip()
    if done.returncode == 0:
        return done.stdout
    if re.search(r"Unable to contact slurm controller|Socket timed out|Connection (refused|timed out)", said):
        raise _unanswered(said.splitlines()[-1])
    raise UserError(said or f"{command[0]} ended with code {done.returncode}")


def _unanswered(why: str) -> Unanswered:
    return Unanswered(
        f"SLURM's controller does not answer: {why}", fix="try again later. Running jobs continue"
    )
