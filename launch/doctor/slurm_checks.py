"""Checks of `all4one doctor`: SLURM's commands, its controller, and the SLURM settings that matter for a run."""

import re
import shutil
from pathlib import Path

from data_pipelines.errors import UserError
from launch.doctor.findings import Finding, ok, problem, warning
from launch.slurm import slurm_commands

COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
ANSWER_SECONDS = 10.0
DEFAULT_EXPIRY = 120
"""Default of SLURM's `cred_expire` in seconds."""


def slurm_settings(_: Path) -> list[Finding]:
    """Check the commands, the controller with its version, the accounting, and each setting that matters."""
    absent = [command for command in COMMANDS if shutil.which(command) is None]
    if len(absent) == len(COMMANDS):
        return ok(
            "SLURM",
            "not installed here: `all4one train` works, but `all4one submit` needs a login node of a cluster",
        )
    if absent:
        return problem("SLURM", f"{', '.join(absent)} missing", "install SLURM's client package")
    try:
        settings = read_settings(slurm_commands.ask("scontrol", "show", "config", seconds=ANSWER_SECONDS))
    except slurm_commands.Unanswered as error:
        return problem("SLURM", error.what, "running jobs continue; tell the administrators if this persists")
    except UserError as error:
        return warning(
            "SLURM",
            f"the commands are installed, but no cluster is configured: {error.what.splitlines()[-1]}",
            "set SLURM_CONF to the cluster's slurm.conf; `all4one train` works without it",
        )
    name, release = settings.get("ClusterName", "?"), settings.get("SLURM_VERSION", "?")
    found = ok("SLURM", f"{release}, and the controller of cluster {name} answers")
    return [*found, *_accounting(settings), *_preemption(settings), *_waits(settings), *_requeue(settings)]


def read_settings(text: str) -> dict[str, str]:
    """Parse the output of `scontrol show config` into a mapping of strings."""
    return dict(re.findall(r"^(\S+)\s+= ?(.*?)\s*$", text, re.MULTILINE))


def _accounting(settings: dict[str, str]) -> list[Finding]:
    try:
        slurm_commands.ask("sacct", "--noheader", "--allocations", "--format=JobID", seconds=ANSWER_SECONDS)
    except UserError:
        age = _seconds(settings, "MinJobAge")
        return ok(
            "accounting",
            f"none: SLURM forgets a job {age} s after its end, but the run folder keeps its history",
        )
    return ok("accounting", "works")


def _requeue(settings: dict[str, str]) -> list[Finding]:
    if settings.get("JobRequeue") == "0":
        return warning(
            "JobRequeue",
            "0: jobs restart only on request. all4one requests it, but the cluster may forbid it",
            "test it with a job of a few minutes, or use --chain N, which needs no requeues",
        )
    return ok("JobRequeue", "1: jobs restart after time limits, preemptions and node failures")


def _preemption(settings: dict[str, str]) -> list[Finding]:
    if settings.get("PreemptType", "preempt/none") == "preempt/none":
        return ok("preemption", "disabled")
    if "preempt_send_user_signal" in settings.get("SlurmctldParameters", ""):
        return ok(
            "preemption",
            "the job gets its own signal immediately, so it restarts before its grace time is over",
        )
    return warning(
        "preemption",
        "the job gets no signal of its own: it saves immediately, but waits until its grace time is over",
        "administrators: set SlurmctldParameters=preempt_send_user_signal",
    )


def _waits(settings: dict[str, str]) -> list[Finding]:
    kill, dead = _seconds(settings, "KillWait"), _seconds(settings, "SlurmdTimeout")
    match = re.search(r"cred_expire=(\d+)", settings.get("AuthInfo", ""))
    expiry = int(match[1]) if match else DEFAULT_EXPIRY
    meaning = (
        f"{kill} s from SIGTERM to SIGKILL: writing a checkpoint must take less, unless there is a grace time"
    )
    return [
        *ok("KillWait", meaning),
        *(
            ok("SlurmdTimeout", f"{dead} s until a dead node is noticed")
            if 0 < dead <= 300
            else warning(
                "SlurmdTimeout",
                f"{dead} s until a dead node is noticed (0: never)",
                "administrators: set SlurmdTimeout=300; until then, check `all4one status` regularly",
            )
        ),
        *ok("cred_expire", f"{expiry} s between a requeue and the next start"),
    ]


def _seconds(settings: dict[str, str], name: str) -> int:
    match = re.match(r"\d+", settings.get(name, ""))
    return int(match[0]) if match else 0
