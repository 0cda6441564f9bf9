from pathlib import Path

import pytest

from launch.slurm.submitit_executor import executor, script
from trainer.config.slurm_settings import SlurmSettings


@pytest.fixture(autouse=True)
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has srun."""
    (tmp_path / "srun").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))


def dependencies(folder: Path, extra: dict[str, str | int | bool], after: str | None) -> list[str]:
    submitter = executor(
        SlurmSettings(extra=extra, chain=3), folder / "slurm", requeues=0, requeue=False, after=after
    )
    return [line for line in script(submitter).splitlines() if "dependency" in line]


def test_the_first_job_of_a_chain_waits_for_what_the_user_says_and_the_others_for_the_one_before(
    tmp_path: Path,
) -> None:
    assert dependencies(tmp_path, {}, None) == []
    assert dependencies(tmp_path, {"dependency": "afterok:5"}, None) == ["#SBATCH --dependency=afterok:5"]
    assert dependencies(tmp_path, {"dependency": "afterok:5"}, "7") == ["#SBATCH --dependency=afterany:7"]
