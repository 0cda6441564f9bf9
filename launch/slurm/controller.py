"""What SLURM's commands say, with and without accounting."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.errors import UserError

ANSWER_SECONDS = 30.0
"""How long a command may take: a controller that is down is tried for a while."""
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

_NO_NODES = "None assigned"
"""What the accounting says of the machines of a job that never began."""


class Unanswered(UserError):
    """SLURM's controller cannot be asked for now."""


@dataclass(frozen=True)
class Job:
    """A job as SLURM knows it."""

    number: str
    state: str
    """SLURM's word in capitals, such as RUNNING."""
    nodes: str
    """Machines in SLURM's short form; empty where it has none yet."""
    why: str = ""
    """What a job that waits is waiting for."""

    @property
    def over(self) -> bool:
        """Whether it will not run again."""
        return self.state in _OVER


def current(chain: Sequence[str], known: Mapping[str, Job]) -> str | None:
    """Number of the first job of a chain that is not over, else of the last that began; None: there is none."""
    live = [number for number in chain if number in known and not known[number].over]
    begun = [number for number in chain if number in known and known[number].nodes]
    return next(iter([*live, *reversed(begun), *chain]), None)


def jobs(numbers: Iterable[str], seconds: float = ANSWER_SECONDS) -> dict[str, Job]:
    """Jobs by number, that of an array's element such as 123_4; those that SLURM has forgotten are left out.

    Args:
        numbers: the jobs that are wanted.
        seconds: how long the controller may take.

    Raises:
        Unanswered: the controller is down.
        UserError: this machine has no SLURM commands.
    """
    wanted = sorted(set(numbers))
    if not wanted:
        return {}
    listed = "--jobs=" + ",".join(wanted)
    try:
        rows = ask(  # --array: elements that wait are a line each
            "squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%N|%r", listed, seconds=seconds
        ).splitlines()
    except Unanswered:
        raise
    except UserError as error:
        if "Invalid job id" not in error.what:
            raise
        rows = []
    found = {row.split("|")[0]: Job(*row.split("|", 3)) for row in rows}
    return found | _accounted([number for number in wanted if number not in found])


def _accounted(numbers: list[str]) -> dict[str, Job]:
    """What the accounting knows of jobs that the controller has forgotten; nothing where there is none."""
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
        ).splitlines()
    except UserError:
        return {}
    told = [row.split("|") for row in rows]
    return {
        number: Job(number, state.split()[0], "" if nodes == _NO_NODES else nodes)
        for number, state, nodes in told
    }


def cancel(number: str) -> None:
    """End a job for good: it saves, and is not started again."""
    ask("scancel", number)


def refusal(script: Path) -> UserError | None:
    """Why SLURM would not take a job, from its own test; None where it would."""
    try:
        ask("sbatch", "--test-only", str(script))
    except Unanswered as error:
        return error
    except UserError as error:
        lines = [line.removeprefix("sbatch: error: ") for line in error.what.splitlines()]
        lines = [line.removeprefix("allocation failure: ") for line in lines if line.strip()]
        what = "; ".join(dict.fromkeys(lines))
        return UserError(f"SLURM would refuse the job: {what}", fix=_mend(what))
    return None


def _mend(refused: str) -> str:
    if "partition" in refused.lower():
        return f"--partition with one of {', '.join(_partitions()) or 'those that `sinfo` lists'}"
    if "account" in refused.lower():
        return "--account with one that `sacctmgr show associations user=$USER` lists"
    if "time" in refused.lower():
        return "a shorter --time, or a --partition or --qos that allows it"
    return (
        "other --nodes, --gpus-per-node, --cpus-per-task or --mem; `sinfo --Node --long` lists what there is"
    )


def _partitions() -> list[str]:
    try:
        return sorted(set(ask("sinfo", "--noheader", "--format=%R").split()))
    except UserError:
        return []


def facts(number: str, seconds: float = ANSWER_SECONDS) -> dict[str, str]:
    """What the controller says within so many seconds of one job, by its own names (`JobState`, `PreemptTime`, …).

    Raises:
        Unanswered: the controller is down.
        UserError: it does not know the job.
    """
    return dict(
        re.findall(r"(\w+)=(\S*)", ask("scontrol", "--oneliner", "show", "job", number, seconds=seconds))
    )


def ask(*command: str, seconds: float = ANSWER_SECONDS) -> str:
    """What one of SLURM's commands prints, within so many seconds.

    Raises:
        Unanswered: the controller is down.
        UserError: with what the command says, or where there is no such command.
    """
    if shutil.which(command[0]) is None:
        raise UserError(
            f"there is no command {command[0]} on this machine", fix="run this on a login node of the cluster"
        )
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL
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
    return Unanswered(f"SLURM's controller does not answer: {why}", fix="try again; jobs that run go on")
