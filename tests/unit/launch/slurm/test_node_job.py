import subprocess
import sys
from pathlib import Path

import pytest

from launch.slurm.node_job import _is_checked
from trainer.config.schema import load_config
from trainer.runs.run_folder import RunFolder, create_run


def test_agents_can_meet_before_torch_is_loaded() -> None:
    code = "import sys, launch.slurm.node_job; sys.exit(bool({'torch', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-P", "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("overrides", "is_checked"),
    [([], True), (["slurm.check_nodes=true"], True), (["slurm.check_nodes=false"], False)],
)
def test_a_spare_knows_whether_it_is_checked(tmp_path: Path, overrides: list[str], is_checked: bool) -> None:
    settings = [f"run.folder={tmp_path}", "run.name=one", f"data.train={tmp_path}/set", *overrides]
    assert _is_checked(create_run(load_config("digits_demo", settings), "one")) == is_checked


def test_the_configuration_of_an_old_run_has_no_such_setting(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.config.write_text("method: {name: all4one}\n")
    assert _is_checked(run)
