"""Jobs that are queued together, with SLURM's commands as small scripts."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from launch.slurm.queueing import JobsLeftQueued, JobsQueuedTogether
from launch.slurm.submission import SlurmSubmission
from launch.slurm.submit import submit, submit_sweep
from launch.slurm.submitted_jobs import Submissions
from trainer.config.schema import load_config
from trainer.runs.run_folder import RunFolder

SBATCH = """#!/bin/sh
n=$(($(cat {folder}/queued 2>/dev/null || echo 6) + 1))
if [ $n = 9 ]; then {third}; fi
echo $n >{folder}/queued
echo Submitted batch job $n
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make SLURM's commands. `third` is what the third `sbatch` does first."""
    commands = tmp_path / "bin"
    commands.mkdir()
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")

    def make(third: str = ":", cancel: str = ":") -> None:
        scripts = {
            "srun": "#!/bin/sh\n",
            "sbatch": SBATCH.format(folder=tmp_path, third=third),
            "scancel": f'#!/bin/sh\n{cancel}\necho "$@" >>{tmp_path}/cancelled\n',
        }
        for name, text in scripts.items():
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)

    return make


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    return run


def queue(run: RunFolder, chain: int = 4) -> list[str]:
    return SlurmSubmission.of(run, load_config("digits_demo", [f"slurm.chain={chain}"])).queue()


def cancelled(run: RunFolder) -> list[str]:
    path = run.path.parent / "cancelled"
    return path.read_text().split() if path.exists() else []


def test_a_chain_is_recorded_when_all_of_it_is_queued(slurm: Callable[..., None], run: RunFolder) -> None:
    slurm()
    assert queue(run) == ["7", "8", "9", "10"]
    assert Submissions(run).newest_chain() == ["7", "8", "9", "10"]
    assert cancelled(run) == []


# In a terminal, Ctrl-C reaches `sbatch` as well.
@pytest.mark.parametrize(
    ("name", "raised"), [("INT", KeyboardInterrupt), ("TERM", SystemExit), ("HUP", SystemExit)]
)
def test_ctrl_c_while_a_chain_is_queued_leaves_no_job_behind(
    slurm: Callable[..., None],
    run: RunFolder,
    capsys: pytest.CaptureFixture[str],
    name: str,
    raised: type[BaseException],
) -> None:
    slurm(third=f"kill -{name} $PPID $$")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(raised):
        queue(run)
    assert cancelled(run) == ["7", "8", "9"]
    assert "cancelled 3 jobs that were already queued: 7, 8, 9" in capsys.readouterr().err
    assert Submissions(run).newest_chain() == []
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_if_slurm_does_not_take_one_job_the_others_are_cancelled(
    slurm: Callable[..., None], run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm(third="echo too many jobs >&2; exit 1")
    with pytest.raises(UserError, match="too many jobs"):
        queue(run)
    assert cancelled(run) == ["7", "8"]
    assert "cancelled 2 jobs that were already queued: 7, 8" in capsys.readouterr().err


def test_jobs_that_cannot_be_recorded_are_cancelled(
    slurm: Callable[..., None], run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Submissions, "note", full)
    with pytest.raises(OSError, match="No space"):
        queue(run, chain=2)
    assert cancelled(run) == ["7", "8"]


DENIED = "echo Access denied >&2; exit 1"


@pytest.mark.parametrize(
    ("third", "reason"),
    [("echo too many jobs >&2; exit 1", "too many jobs"), ("kill -INT $PPID $$", "interrupted")],
)
def test_a_job_that_cannot_be_cancelled_is_named_with_the_command(
    slurm: Callable[..., None], run: RunFolder, third: str, reason: str
) -> None:
    slurm(third=third, cancel=DENIED)
    with pytest.raises(JobsLeftQueued, match=reason) as caught:
        queue(run)
    jobs = "7, 8" if reason == "too many jobs" else "7, 8, 9"
    assert (
        f"jobs that were already queued ({jobs}) could not be cancelled: Access denied" in caught.value.what
    )
    assert caught.value.fix == f"run scancel {jobs.replace(',', '')}"


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_new_folder_stays_exactly_if_jobs_would_train_in_it(
    slurm: Callable[..., None], tmp_path: Path, is_cancelled: bool
) -> None:
    slurm(third="exit 1", cancel=":" if is_cancelled else DENIED)
    settings = ["slurm.chain=3", f"run.folder={tmp_path}", "run.name=new"]
    with pytest.raises(UserError) as caught:
        submit("digits_demo", settings, preflight=False, dry_run=False)
    assert (tmp_path / "new" / "config.yaml").exists() is not is_cancelled
    if not is_cancelled:
        assert caught.value.where == tmp_path / "new"
        assert str(caught.value.fix).startswith("run scancel 7 8, then remove this folder")


def test_the_folder_of_a_sweep_stays_if_its_jobs_would_train_in_it(
    slurm: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    slurm(cancel=DENIED)
    monkeypatch.setattr(Submissions, "note", full)
    overrides = [f"run.folder={tmp_path}", "run.name=new"]
    with pytest.raises(UserError, match=r"No space .* \(7_0, 7_1\) could not be cancelled: Access denied"):
        submit_sweep("digits_demo", overrides, ["run.seed=1,2"], parallel=1, preflight=False, dry_run=False)
    assert len(list((tmp_path / "new").glob("*/config.yaml"))) == 2


def test_a_signal_after_the_last_job_was_queued_is_not_lost(
    slurm: Callable[..., None], run: RunFolder
) -> None:
    slurm()
    with pytest.raises(KeyboardInterrupt):
        interrupted_at_the_end()
    assert cancelled(run) == ["5"]


def interrupted_at_the_end() -> None:
    with JobsQueuedTogether() as queued:
        queued.add(["5"])
        signal.raise_signal(signal.SIGINT)
