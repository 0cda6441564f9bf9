"""`all4one doctor`: check whether this machine, its cluster and its disks are ready for runs. Loads no torch.

Each check runs in its own process, so a library that crashes or a file system that hangs gives only one bad line.
"""

import gc
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
from itertools import chain
from pathlib import Path

from data_pipelines.errors import UserError
from launch.doctor.findings import OK, PROBLEM, WARNING, Finding
from launch.local.rank_processes import module_command

FULL_ERROR = "run this command to see the full error: "
STYLES = {OK: "green", WARNING: "yellow", PROBLEM: "bold red"}


@dataclass(frozen=True)
class Check:
    """A function `(runs) -> list[Finding]`, given by name so that a separate process can load it."""

    name: str
    function: str
    """`module:function`."""
    seconds: float = 10.0
    """Time limit of the check."""
    folder: Path | None = None
    """The folder that the function gets. None: that of the runs."""
    is_alone: bool = False
    """Whether the check runs after the others, because they would slow it down."""


CHECKS = (
    Check("packages", "launch.doctor.packages:packages"),
    Check("devices", "launch.doctor.packages:devices", 30),
    Check("gloo", "launch.doctor.all_reduce:gloo", 75),
    Check("all-reduce", "launch.doctor.all_reduce:nccl", 75),
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
    Check("rates", "launch.doctor.node_rates:rates", 60, is_alone=True),
)


def check_of_set(data: Path) -> Check:
    """Return the check of the disk of a set."""
    return Check("read of the set", "launch.doctor.node_rates:read_of_set", 30, folder=data, is_alone=True)


def examine(runs: Path, *, as_json: bool, checks: Sequence[Check] = CHECKS) -> int:
    """Run all checks and print each result as soon as it is known. Return exit code 1 if there is a problem, else 0.

    Args:
        runs: folder where runs are saved. It does not have to exist.
        as_json: whether to print JSON.
        checks: the checks, in the order of the output.
    """
    run = partial(result, runs=runs)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        together: Iterator[list[Finding]] = pool.map(run, [check for check in checks if not check.is_alone])
        found = chain(together, map(run, [check for check in checks if check.is_alone]))
        findings = [finding for one in found for finding in one] if as_json else _print(found)
    counts = Counter(finding.level for finding in findings)
    if as_json:
        print(
            json.dumps({"findings": [asdict(one) for one in findings], "problems": counts[PROBLEM]}, indent=1)
        )
    else:
        print(f"\n{counts[OK]} ok, {counts[WARNING]} warnings, {counts[PROBLEM]} problems")
    return int(counts[PROBLEM] > 0)


def result(check: Check, runs: Path) -> list[Finding]:
    """Run a check within its time limit and return its findings."""
    command = module_command("launch.doctor.examination", check.function, str(check.folder or runs))
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
        process.kill()  # no wait, because a process that waits for a disk cannot be killed
        return _failed(
            check, f"no answer within {check.seconds:.0f} s", "check the disk or service that this check uses"
        )
    if process.returncode < 0:
        return _failed(
            check,
            f"ended by {signal.Signals(-process.returncode).name}",
            "reinstall the package that this check uses",
        )
    try:
        answer = json.loads(out)
        if isinstance(answer, dict):
            return _failed(check, answer["what"], answer["fix"] or FULL_ERROR + " ".join(command))
        return [Finding(**finding) for finding in answer]
    except ValueError:
        last = errors.strip().splitlines()[-1:] or ["it failed without a message"]
        return _failed(check, last[0], FULL_ERROR + " ".join(command))


def _failed(check: Check, what: str, fix: str) -> list[Finding]:
    return [Finding(PROBLEM, check.name, what, fix)]


def _print(found: Iterator[list[Finding]]) -> list[Finding]:
    from rich.table import Table
    from rich.text import Text

    from data_pipelines.console import plain_console

    console, findings = plain_console(), list[Finding]()
    for one in found:
        table = Table.grid(padding=(0, 2, 0, 0))
        for width in (7, 15):
            table.add_column(width=width)
        table.add_column(overflow="fold")
        for finding in one:
            what = Text(finding.what)
            if finding.fix:
                what.append("\n→", "dim").append(f" {finding.fix}")
            table.add_row(Text(finding.level, STYLES[finding.level]), finding.check, what)
        console.print(table)
        findings += one
    return findings


def main() -> None:
    """Run one check in this process and print its findings as JSON."""
    from launch.local.worker import end_with_parent

    end_with_parent()
    gc.disable()  # this process lives for seconds, most of which the collector would spend on imported modules
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries also print to stdout
    module, _, function = sys.argv[1].partition(":")
    try:
        findings: list[Finding] = getattr(import_module(module), function)(Path(sys.argv[2]))
        json.dump([asdict(finding) for finding in findings], answer)
    except UserError as error:
        json.dump({"what": error.what, "fix": error.fix}, answer)
    answer.close()
    os._exit(0)  # some libraries crash at exit, after the result was printed


if __name__ == "__main__":
    main()
