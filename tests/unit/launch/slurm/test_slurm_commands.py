"""SLURM's commands as small scripts that say what the real ones say."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from launch.slurm import slurm_commands
from launch.slurm.user_settings import slurm_defaults

Say = Callable[..., None]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Make a command that prints something."""
    monkeypatch.setenv("PATH", str(tmp_path))  # real commands of SLURM must not be found
    (tmp_path / "cat").symlink_to("/bin/cat")

    def make(command: str, out: str = "", error: str = "", code: int = 0) -> None:
        script = tmp_path / command
        script.write_text(f"#!/bin/sh\ncat <<'EOF'\n{out}\nEOF\ncat >&2 <<'EOF'\n{error}\nEOF\nexit {code}\n")
        script.chmod(0o755)

    return make


def test_jobs_are_told_by_the_controller_and_those_it_forgot_by_the_accounting(say: Say) -> None:
    say("squeue", "7|RUNNING|node[1-2]|None\n8|PENDING||Resources")
    say("sacct", "5|CANCELLED by 0|node3\n6|CANCELLED by 0|None assigned")
    found = slurm_commands.jobs(["5", "6", "7", "8", "9"])
    assert slurm_commands.current(["5", "6"], found) == "5", "the last that began"
    assert found["7"] == slurm_commands.Job("7", "RUNNING", "node[1-2]", "None")
    assert (found["8"].why, found["8"].over) == ("Resources", False)
    assert (found["5"].state, found["5"].over) == ("CANCELLED", True)
    assert "9" not in found


def test_the_accounting_may_not_take_longer_than_the_controller(say: Say, tmp_path: Path) -> None:
    say("squeue", "7|RUNNING|node1|None")
    (tmp_path / "sacct").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tmp_path / "sacct").chmod(0o755)
    begun = time.monotonic()
    assert set(slurm_commands.jobs(["5", "7"], seconds=1)) == {"7"}
    assert time.monotonic() - begun < 10


def test_a_job_that_nobody_remembers_is_no_error(say: Say) -> None:
    say("squeue", error="slurm_load_jobs error: Invalid job id specified", code=1)
    say("sacct", error="Slurm accounting storage is disabled", code=1)
    assert slurm_commands.jobs(["5"]) == {}


def test_a_controller_that_is_down_and_a_machine_without_slurm_are_said(say: Say) -> None:
    say("squeue", error="slurm_load_jobs error: Unable to contact slurm controller (connect failure)", code=1)
    with pytest.raises(slurm_commands.Unanswered, match=r"does not answer.*connect failure"):
        slurm_commands.jobs(["5"])
    with pytest.raises(UserError, match="no command scancel"):
        slurm_commands.cancel("5")


def test_a_refusal_is_said_once_with_its_mend(say: Say, tmp_path: Path) -> None:
    say(
        "sbatch",
        error="sbatch: error: invalid partition specified: nowhere\n"
        "allocation failure: Invalid partition name specified",
        code=1,
    )
    say("sinfo", "main\nlow\nmain")
    refused = slurm_commands.refusal(tmp_path / "job.sh")
    assert refused is not None
    assert str(refused).count("nowhere") == 1
    assert "set --partition to one of low, main" in str(refused)


def test_users_have_defaults_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert slurm_defaults() == {}
    file = tmp_path / "all4one" / "slurm.yaml"
    file.parent.mkdir()
    file.write_text("partition: mine\nsetup: [module load cuda]\n")
    assert slurm_defaults() == {"slurm": {"partition": "mine", "setup": ["module load cuda"]}}
    file.write_text("partitoin: mine\n")
    with pytest.raises(UserError, match=r"did you mean slurm\.partition") as caught:
        slurm_defaults()
    assert str(file) in str(caught.value)


def test_elements_of_an_array_are_jobs_each(say: Say) -> None:
    say("squeue", "9_0|RUNNING|node1|None\n9_1|PENDING||JobArrayTaskLimit")
    found = slurm_commands.jobs(["9_0", "9_1"])
    assert (found["9_0"].nodes, found["9_1"].why) == ("node1", "JobArrayTaskLimit")
