import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.slurm.containers import relayed_command
from launch.slurm.containers.command_relay import run_command
from launch.slurm.containers.relayed_command import QUEUED_BY, address, connect, use_relay

RELAY = [sys.executable, "-m", "launch.slurm.containers.command_relay"]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a task of a job, and a machine whose only command is `scontrol`."""
    monkeypatch.setenv("SLURM_JOB_ID", f"{os.getpid()}{tmp_path.name}")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.setenv("SLURMD_NODENAME", "node1")
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "scontrol").write_text('#!/bin/sh\necho "asked: $1 $2"\necho "a warning" >&2\nexit 3\n')
    (commands / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(commands))


@pytest.fixture
def relay(job: None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(RELAY)
    yield process
    process.kill()
    process.wait()


@pytest.mark.usefixtures("relay")
def test_a_stand_in_in_the_path_runs_the_command_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relay: subprocess.Popen[bytes]
) -> None:
    monkeypatch.setenv(QUEUED_BY, "0.0.1")
    connection = use_relay(tmp_path / "commands")
    assert connection is not None
    assert Path(os.environ["PATH"].split(os.pathsep)[0]) == tmp_path / "commands"
    outside = os.environ | {"PATH": f"{tmp_path / 'commands'}:/bin"}  # where there is no other scontrol
    done = subprocess.run(
        ["scontrol", "show", "a b"], env=outside, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "asked: show a b\n", "a warning\n")
    connection.close()


def test_it_ends_with_the_last_process_and_ignores_signals_that_are_meant_for_them(
    relay: subprocess.Popen[bytes],
) -> None:
    first, second = connect(), connect()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        relay.send_signal(number)
    first.close()
    with second.makefile("rw") as lines:
        lines.write(json.dumps(["scontrol", "show", "job"]) + "\n")
        lines.flush()
        assert json.loads(lines.readline())["code"] == 3
    assert relay.poll() is None
    second.close()
    assert relay.wait(timeout=20) == 0


def test_the_script_of_the_job_ends_one_that_nobody_has_used(relay: subprocess.Popen[bytes]) -> None:
    connect().close()
    relay.send_signal(signal.SIGUSR1)
    assert relay.wait(timeout=20) == 0


def test_without_a_relay_a_command_fails_in_the_words_that_let_callers_try_again(
    job: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(relayed_command, "_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(sys, "argv", ["scontrol", "requeue", "7"])
    assert relayed_command.main() == 1
    assert capsys.readouterr().err.startswith("Unable to contact slurm controller: the relay")
    monkeypatch.setenv(QUEUED_BY, "0.0.1")
    assert use_relay(tmp_path / "commands") is None


def test_outside_of_a_container_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(QUEUED_BY, raising=False)
    path = os.environ["PATH"]
    assert use_relay(tmp_path / "commands") is None
    assert os.environ["PATH"] == path
    assert not (tmp_path / "commands").exists()


def test_it_runs_nothing_but_slurms_commands() -> None:
    for words in ([], ["sh", "-c", "true"], ["/usr/bin/scontrol"]):
        refused = run_command(words)
        assert refused["code"] == 2
        assert "nothing else" in str(refused["err"])


def test_another_user_is_not_served(relay: subprocess.Popen[bytes]) -> None:
    if os.getuid() != 0:
        pytest.skip("acting as another user needs root")
    kept = connect()  # the relay listens, and goes on
    asks = (
        "import os, socket, sys; os.setuid(65534); other = socket.socket(socket.AF_UNIX); "
        "other.connect('\\0' + sys.argv[1]); other.sendall(b'[\"scontrol\"]\\n'); print(other.recv(100))"
    )
    done = subprocess.run(
        [sys.executable, "-c", asks, address()[1:]], capture_output=True, text=True, check=False
    )
    assert (
        done.stdout.strip() == "b''" or "ConnectionResetError" in done.stderr or "BrokenPipe" in done.stderr
    )
    assert relay.poll() is None
    kept.close()
