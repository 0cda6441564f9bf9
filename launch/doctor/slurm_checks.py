"""Checks of `all4one doctor`: SLURM's commands, its controller, and what its settings mean for a run."""

import re
import shutil
from pathlib import Path

from data_pipelines.errors import UserError
from launch.doctor.findings import Finding, ok, problem, warning
from launch.slurm import controller

COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
ANSWER_SECONDS = 10.0
DEFAULT_EXPIRY = 120
"""Seconds that `cred_expire` has where it is not set."""


def slurm_settings(_: Path) -> list[Finding]:
    """The commands; the controller and its version; the accounting; a line for each setting that matters."""
    absent = [command for command in COMMANDS if shutil.which(command) is None]
    if len(absent) == len(COMMANDS):
        return ok(
            "SLURM", "not on this machine: `all4one train` works, `submit` needs a login node of a cluster"
        )
    if absent:
        return problem(
            "SLURM", f"{', '.join(absent)} missing", "install SLURM's client package on this machine"
        )
    try:
        settings = read_settings(controller.ask("scontrol", "show", "config", seconds=ANSWER_SECONDS))
    except controller.Unanswered as error:
        return problem("SLURM", error.what, "jobs that run go on; tell the administrators if it stays so")
    except UserError as error:
        return warning(
            "SLURM",
            f"its commands are here, but belong to no cluster: {error.what.splitlines()[-1]}",
            "SLURM_CONF must name the cluster's slurm.conf; `all4one train` needs none",
        )
    name, release = settings.get("ClusterName", "?"), settings.get("SLURM_VERSION", "?")
    found = ok("SLURM", f"{release}, the controller of cluster {name} answers")
    return [*found, *_accounting(settings), *_preemption(settings), *_waits(settings), *_requeue(settings)]


def read_settings(text: str) -> dict[str, str]:
    """`scontrol show config` as a table of texts."""
    return dict(re.findall(r"^(\S+)\s+= ?(.*?)\s*$", text, re.MULTILINE))


def _accounting(settings: dict[str, str]) -> list[Finding]:
    try:
        controller.ask("sacct", "--noheader", "--allocations", "--format=JobID", seconds=ANSWER_SECONDS)
    except UserError:
        age = _seconds(settings, "MinJobAge")
        return ok("accounting", f"none: SLURM forgets a job {age} s after its end, the run's folder does not")
    return ok("accounting", "works")


def _requeue(settings: dict[str, str]) -> list[Finding]:
    if settings.get("JobRequeue") == "0":
        return warning(
            "JobRequeue",
            "0: jobs start again only where they ask for it, which ours do, unless it is forbidden",
            "a job of some minutes shows it; --chain N does without requeues",
        )
    return ok("JobRequeue", "1: jobs start again after time limits, preemptions and lost machines")


def _preemption(settings: dict[str, str]) -> list[Finding]:
    if settings.get("PreemptType", "preempt/none") == "preempt/none":
        return ok("preemption", "none here")
    if "preempt_send_user_signal" in settings.get("SlurmctldParameters", ""):
        return ok(
            "preemption", "the job's own signal comes at once: it starts again before its grace is over"
        )
    return warning(
        "preemption",
        "no signal of the job's own: it saves at once, and waits for the end of its grace time",
        "administrators: SlurmctldParameters=preempt_send_user_signal",
    )


def _waits(settings: dict[str, str]) -> list[Finding]:
    kill, dead = _seconds(settings, "KillWait"), _seconds(settings, "SlurmdTimeout")
    match = re.search(r"cred_expire=(\d+)", settings.get("AuthInfo", ""))
    expiry = int(match[1]) if match else DEFAULT_EXPIRY
    meaning = f"{kill} s from SIGTERM to SIGKILL: a checkpoint must be quicker, where there is no other grace"
    return [
        *ok("KillWait", meaning),
        *(
            ok("SlurmdTimeout", f"{dead} s until a dead machine is noticed")
            if 0 < dead <= 300
            else warning(
                "SlurmdTimeout",
                f"{dead} s until a dead machine is noticed; 0 means never",
                "administrators: SlurmdTimeout=300; until then look at `all4one status` by yourself",
            )
        ),
        *ok("cred_expire", f"{expiry} s between a requeue and the next start"),
    ]


def _seconds(settings: dict[str, str], name: str) -> int:
    match = re.match(r"\d+", settings.get(name, ""))
    return int(match[0]) if match else 0
