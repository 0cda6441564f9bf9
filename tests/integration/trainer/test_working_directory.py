"""What lies in the working directory is not run in place of the program."""

import os
import subprocess
import sys
from pathlib import Path

from tiny_runs import STEPS, Runs

from trainer.runs.records import read_records


def test_folders_and_files_with_our_names_are_not_run(runs: Runs, tmp_path: Path) -> None:
    decoy = "import sys\nprint('the decoy ran')\nsys.exit(0)\n"
    (tmp_path / "launch.py").write_text(decoy)
    for name in ("trainer", "data_pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(decoy)
    command = [Path(sys.executable).with_name("all4one"), *runs.arguments("beside_decoys")]
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


def test_ranks_that_end_without_finishing_the_run_are_an_error(
    runs: Runs, tmp_path: Path, monkeypatch
) -> None:
    """The processes of a run are replaced by ones that do nothing, on the path that Python searches first."""
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif 'RANK' in os.environ:\n    os._exit(0)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    result = runs.train("nothing_done", nproc=1)
    assert result.code == 1, result.out
    assert "but the run is not finished" in result.words
    assert "all4one resume" in result.words
