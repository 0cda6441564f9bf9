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


@pytest.mark.parametrize(("cores_of_process", "cores_of_agent"), [(8, 32), (0, 4)])
def test_an_agent_is_the_only_task_of_its_node_and_has_the_cores_of_its_processes(
    tmp_path: Path, cores_of_process: int, cores_of_agent: int
) -> None:
    settings = SlurmSettings(nodes=2, gpus_per_node=4, cpus_per_task=cores_of_process)
    submitter = executor(settings, tmp_path / "slurm", requeues=0, requeue=False, agents=True)
    lines = script(submitter).splitlines()
    for option in ("nodes=2", "ntasks-per-node=1", "gpus-per-node=4", f"cpus-per-task={cores_of_agent}"):
        assert f"#SBATCH --{option}" in lines
    assert any(line.startswith("srun") and f"--cpus-per-task={cores_of_agent}" in line for line in lines)
