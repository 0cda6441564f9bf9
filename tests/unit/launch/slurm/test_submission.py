from typing import Any

import pytest

from launch.slurm.submission import agents_warning, cpu_warning
from trainer.config.slurm_settings import SlurmSettings


@pytest.mark.parametrize(
    ("gpus", "cores", "few"), [(0, 0, False), (0, 2, False), (8, 8, False), (8, 0, True)]
)
def test_jobs_of_gpus_should_say_how_many_cores_they_need(gpus: int, cores: int, few: bool) -> None:
    assert bool(cpu_warning(SlurmSettings(gpus_per_node=gpus, cpus_per_task=cores))) == few


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"extra": {"gpus_per_task": 1}}, "--gpus-per-task"),
        ({"srun_args": ("--tres-per-task=gpu:1", "--mpi=none")}, "--tres-per-task"),
        ({"extra": {"mail-type": "END"}, "srun_args": ("--mpi=none",)}, ""),
        ({"extra": {"gpus-per-task": 1}, "recovery": "requeue"}, ""),
    ],
)
def test_resources_of_each_task_leave_no_place_for_agents(settings: dict[str, Any], named: str) -> None:
    assert named in agents_warning(SlurmSettings(**settings))
    assert bool(agents_warning(SlurmSettings(**settings))) == bool(named)
