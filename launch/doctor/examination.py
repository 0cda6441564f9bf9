"""`all4one doctor`: whether this machine, its cluster and its disks are fit for runs. Loads no torch.

Each check runs in a process of its own: a library that crashes or a file system that hangs is a line of the page.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from launch.doctor.findings import OK, PROBLEM, WARNING, Finding
from launch.local.processes import module_command

MARKS = {OK: "[green]ok[/]", WARNING: "[yellow]warning[/]", PROBLEM: "[bold red]problem[/]"}


@dataclass(frozen=True)
class Check:
    """A function `(runs) -> list[Finding]` by its name, so that a process of its own finds it."""

    name: str
    function: str
    """`module:function`."""
    seconds: float = 10.0
    """How long it may take."""


CHECKS = (
    Check("packages", "launch.doctor.packages:packages"),
    Check("devices", "launch.doctor.packages:devices", 30),
    Check("gloo", "launch.doctor.packages:gloo", 30),
    Check("DeepSpeed", "launch.doctor.packages:deepspeed", 30),
    Check("DALI", "launch.doctor.packages:dali", 30),
    Check("JPEGs", "launch.doctor.packages:jpegs"),
    Check("SLURM", "launch.doctor.slurm_checks:slurm_settings", 30),
    Check("run folder", "launch.doctor.machine:run_folder"),
    Check("file system", "launch.doctor.machine:shared"),
    Check("locks", "launch.doctor.machine:locks"),
    Check("limits", "launch.doctor.machine:limits"),
    Check("/dev/shm", "launch.doctor.machine:shared_memory"),
    Check("network", "launch.doctor.machine:network"),
)


def examine(runs: Path, *, as_json: bool, checks: Sequence[Check] = CHECKS) -> int:
    """Run all checks and print what they find, each as it is known. Returns the exit code: 1 where there is a problem.

    Args:
        runs: the folder that runs go to; it need not be there.
        as_json: for programs.
        checks: in the order of the page.
    """
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found: Iterator[list[Finding]] = pool.map(partial(result, runs=runs), checks)
        findings = [finding for one in found for finding in one] if as_json else _print(found)
    counts = Counter(finding.level for finding in findings)
    if as_json:
        print(
            json.dumps({"findings": [asdict(one) for one in findings], "problems": counts[PROBLEM]}, indent=1)
        )
    else:
        print(f"\n{counts[OK]} ok, {counts[WARNING]} to know of, {counts[PROBLEM]} to mend")
    return int(counts[PROBLEM] > 0)


def result(check: Check, runs: Path) -> list[Finding]:
    """What a check finds, within its time."""
    command = module_command("launch.doctor.examination", check.function, str(runs))
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"ALL4ONE_PARENT": str(os.getpid())},
    )
    try:
        out, errors = process.communicate(timeout=check.seconds)
    except subprocess.TimeoutExpired:
        process.kill()  # not waited for: what waits for a disk cannot be killed
        return _failed(check, f"no answer within {check.seconds:.0f} s", "see what it waits for")
    if process.returncode < 0:
        return _failed(
            check, f"ended by {signal.Signals(-process.returncode).name}", "install its package anew"
        )
    try:
        return [Finding(**finding) for finding in json.loads(out)]
    except ValueError:
        last = errors.strip().splitlines()[-1:] or ["it says nothing"]
        return _failed(check, last[0], f"to see all of it: {' '.join(command)}")


def _failed(check: Check, what: str, fix: str) -> list[Finding]:
    return [Finding(PROBLEM, check.name, what, fix)]


def _print(found: Iterator[list[Finding]]) -> list[Finding]:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console, findings = Console(highlight=False), list[Finding]()
    for one in found:
        table = Table.grid(padding=(0, 2, 0, 0))
        for width in (7, 14):
            table.add_column(width=width)
        table.add_column(overflow="fold")
        for finding in one:
            mend = f"\n[dim]→[/] {escape(finding.fix)}" if finding.fix else ""
            table.add_row(MARKS[finding.level], finding.check, escape(finding.what) + mend)
        console.print(table)
        findings += one
    return findings


def main() -> None:
    """One check, in this process: prints its findings as JSON, and nothing else."""
    from launch.local.worker import end_with_parent

    end_with_parent()
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries talk
    module, _, function = sys.argv[1].partition(":")
    findings: list[Finding] = getattr(import_module(module), function)(Path(sys.argv[2]))
    json.dump([asdict(finding) for finding in findings], answer)
    answer.close()
    os._exit(0)  # some libraries crash at their end, after the answer


if __name__ == "__main__":
    main()
