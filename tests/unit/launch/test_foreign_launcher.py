import pytest

from data_pipelines.errors import UserError
from launch.foreign_launcher import refuse_foreign_launcher

NAMES = (
    "TORCHELASTIC_RUN_ID",
    "RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_RANK",
    "PMI_SIZE",
    "PMI_RANK",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_PROCID",
    "SLURM_PTY_PORT",
)
LAUNCHERS = [
    ("torchrun", {"TORCHELASTIC_RUN_ID": "none"}, "RANK"),
    ("mpirun", {"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_RANK"),
    ("mpirun", {"PMI_SIZE": "2"}, "PMI_RANK"),
    ("srun", {"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID"),
]


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("name", "environment", "rank"), LAUNCHERS)
def test_several_copies_are_refused_once(
    monkeypatch: pytest.MonkeyPatch, name: str, environment: dict[str, str], rank: str
) -> None:
    for key, value in (environment | {rank: "0"}).items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UserError, match=f"{name} has started several copies") as caught:
        refuse_foreign_launcher()
    assert "--nproc" in caught.value.fix
    monkeypatch.setenv(rank, "1")
    with pytest.raises(SystemExit) as ended:
        refuse_foreign_launcher()
    assert ended.value.code == 2


@pytest.mark.parametrize(
    "environment",
    [{}, {"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PTY_PORT": "1"}, {"RANK": "1"}],
)
def test_one_copy_is_none_of_its_business(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    refuse_foreign_launcher()
