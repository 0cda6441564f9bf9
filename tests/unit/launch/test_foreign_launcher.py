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
PMI2 = {"SLURM_STEP_NUM_TASKS": "2", "PMI_SIZE": "2"}


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


@pytest.mark.parametrize("rank", ["0", "1"])
def test_srun_with_pmi2_is_not_taken_for_mpirun(monkeypatch: pytest.MonkeyPatch, rank: str) -> None:
    for key, value in (PMI2 | {"SLURM_PROCID": rank, "PMI_RANK": rank}).items():
        monkeypatch.setenv(key, value)
    if rank == "0":
        with pytest.raises(UserError, match="srun has started several copies"):
            refuse_foreign_launcher()
    else:
        with pytest.raises(SystemExit):
            refuse_foreign_launcher()


def test_mpirun_in_an_allocation_is_not_taken_for_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in (PMI2 | {"SLURM_PROCID": "0", "PMI_RANK": "0", "PMI_SIZE": "8"}).items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UserError, match="mpirun has started several copies"):
        refuse_foreign_launcher()


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
