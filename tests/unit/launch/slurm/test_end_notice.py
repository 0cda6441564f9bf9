from collections.abc import Iterator
from pathlib import Path

import pytest
from webhook import Webhook, webhook

from launch.slurm import end_notice
from launch.slurm.submission import SlurmSubmission
from trainer.config.schema import load_config
from trainer.runs.end_reasons import ExitCode
from trainer.runs.run_folder import RunFolder

SIGKILL = 137


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[Webhook]:
    with webhook(tmp_path) as found:
        yield found


@pytest.fixture
def run(tmp_path: Path, hook: Webhook) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.write_config(load_config("digits_demo", [*hook.settings, "slurm.max_requeues=3"]))
    return run


def titles(
    run: RunFolder, hook: Webhook, code: int, monkeypatch: pytest.MonkeyPatch, *, restart: int = 1
) -> list[str]:
    """What is told when a start of job 7 ends with a code."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
    monkeypatch.setattr("sys.argv", ["end_notice", str(run.path), str(code)])
    end_notice.main()
    return [message.title for message in hook.messages]


@pytest.mark.parametrize(
    ("reason", "code", "restart", "told"),
    [
        ("finished", 0, 1, ["run has finished"]),
        ("error", 1, 1, ["run has failed"]),
        ("error", ExitCode.USER_ERROR, 3, ["run has failed"]),
        ("killed", SIGKILL, 1, []),  # it is requeued
        ("stalled", ExitCode.STALLED, 2, []),
        ("killed", SIGKILL, 3, ["run is not requeued again"]),
        ("time is up", ExitCode.TIME_IS_UP, 3, ["run is not requeued again"]),
        ("cancelled", ExitCode.INTERRUPTED, 1, []),
        ("preempted", ExitCode.TERMINATED, 1, []),
    ],
)
def test_people_hear_of_ends_after_which_nothing_goes_on_by_itself(
    run: RunFolder,
    hook: Webhook,
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
    code: int,
    restart: int,
    told: list[str],
) -> None:
    run.note("end", attempt=1, reason=reason, message="the words of the end", saved=8)
    assert titles(run, hook, code, monkeypatch, restart=restart) == told
    if told and reason != "finished":
        assert "the words of the end" in hook.messages[0].text
        assert f"all4one resume {run.path}" in hook.messages[0].text


def test_a_crash_loop_is_told_before_the_requeues_are_used_up(
    run: RunFolder, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    for attempt in (1, 2):
        run.note("end", attempt=attempt, reason="killed", message="no memory", saved=8)
    assert titles(run, hook, SIGKILL, monkeypatch) == ["run is not requeued again"]
    assert "SLURM has restarted job 7 1 times" in hook.messages[0].text


def test_jobs_of_a_chain_say_nothing_of_their_time_limit(
    run: RunFolder, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write_config(load_config("digits_demo", [*hook.settings, "slurm.chain=3"]))
    run.note("end", attempt=1, reason="time is up")
    assert titles(run, hook, ExitCode.TIME_IS_UP, monkeypatch) == []


def test_the_script_of_a_job_tells_only_if_people_are_to_be_told(
    tmp_path: Path, hook: Webhook, run: RunFolder
) -> None:
    def script(*settings: str) -> str:
        return SlurmSubmission.of(run, load_config("digits_demo", settings)).script()

    lines = script(*hook.settings).splitlines()
    (notice,) = [line for line in lines if "launch.slurm.end_notice" in line]
    assert notice.endswith(" $code")
    assert lines.index(notice) > next(i for i, line in enumerate(lines) if "record_failure" in line)
    assert "end_notice" not in script()
