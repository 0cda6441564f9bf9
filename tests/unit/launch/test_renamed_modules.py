import importlib.util
import subprocess
from pathlib import Path

import pytest

from launch.local.rank_processes import module_command
from launch.renamed_modules import RENAMED


@pytest.mark.parametrize("name", RENAMED)
def test_an_old_name_leads_to_the_file_of_today(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_file()
    assert spec.origin.endswith(RENAMED[name])


@pytest.mark.slow
def test_a_queued_script_runs_a_module_by_its_old_name(tmp_path: Path) -> None:
    done = subprocess.run(
        module_command("launch.slurm.chain_end", str(tmp_path)), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
