"""What lies in the working directory is not run in place of the program."""

import os
import subprocess
import sys
from pathlib import Path

from commands import run_program
from tiny_runs import NO_EVALUATION, STEPS, Runs

from trainer.runs.records import read_records


def test_folders_and_files_with_our_names_are_not_run(runs: Runs, tmp_path: Path) -> None:
    decoy = "import sys\nprint('the decoy ran')\nsys.exit(0)\n"
    (tmp_path / "launch.py").write_text(decoy)
    for name in ("trainer", "data_pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(decoy)
    command = [Path(sys.executable).with_name("all4one"), *runs.arguments("beside_decoys", NO_EVALUATION)]
    done = subprocess.run(
        [*map(str, command), "--nproc", "2"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "the decoy ran" not in done.stdout
    run = runs.path("beside_decoys")
    assert run.is_finished()
    assert max(r["step"] for r in read_records(run.metrics)) == STEPS


IDLE_RANKS = """
import sys
import launch.cli
from launch.local import worker
worker.main = lambda: 0
sys.exit(launch.cli.main())
"""


def test_ranks_that_end_without_finishing_the_run_are_an_error(runs: Runs, tmp_path: Path) -> None:
    """The ranks are forks of a launcher in which they do nothing."""
    program = tmp_path / "idle_ranks.py"
    program.write_text(IDLE_RANKS)
    done = run_program(program, *runs.arguments("nothing_done"))
    assert done.code == 1, done.out
    assert "but the run is not finished" in done.words
    assert "all4one resume" in done.words
