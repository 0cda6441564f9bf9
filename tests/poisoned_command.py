"""The command that trains a tiny run on two processes, of which rank 1 has a fault in each step from some step on."""

from pathlib import Path

from commands import run_program
from tiny_runs import Runs

POISON = """
import os, signal, sys, time
from pathlib import Path
from launch.cli import main
from trainer.engine.deepspeed_engine import Engine

real = Engine.step
def step(self, number, *args, **options):
    if os.environ["RANK"] == "1" and number >= {begin}:
        {fault}
    if os.environ["RANK"] == "0":
        {before}
    values = real(self, number, *args, **options)
    if os.environ["RANK"] == "0":
        {after}
    return values
Engine.step = step
sys.argv[0] = "all4one"
main()
"""


def poisoned(
    runs: Runs,
    folder: Path,
    name: str,
    fault: str,
    *overrides: str,
    begin: int = 5,
    before: str = "pass",
    after: str = "pass",
) -> tuple[int, str]:
    """Train a run as the command does. Returns its exit code and its output.

    Args:
        runs: folder and settings of the runs.
        folder: folder of the program.
        name: name of the run.
        fault: a statement that rank 1 runs in each step from `begin` on.
        overrides: further settings.
        begin: number of the first step with the fault.
        before: a statement that rank 0 runs before each step.
        after: a statement that rank 0 runs after each step.
    """
    program = folder / "poisoned.py"
    program.write_text(POISON.format(fault=fault, begin=begin, before=before, after=after))
    result = run_program(program, *runs.arguments(name, *overrides), "--nproc", 2)
    return result.code, result.out
