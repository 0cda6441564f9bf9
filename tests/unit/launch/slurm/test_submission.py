import pytest

from launch.slurm.submission import cpu_warning
from trainer.config.slurm_settings import SlurmSettings


@pytest.mark.parametrize(
    ("gpus", "cores", "few"), [(0, 0, False), (0, 2, False), (8, 8, False), (8, 0, True)]
)
def test_jobs_of_gpus_should_say_how_many_cores_they_need(gpus: int, cores: int, few: bool) -> None:
    assert bool(cpu_warning(SlurmSettings(gpus_per_node=gpus, cpus_per_task=cores))) == few
