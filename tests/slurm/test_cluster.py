"""The cluster of the tests itself: nothing of it outlives the process that started it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import slurm_cluster


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_cluster_whose_tests_were_interrupted(
    cluster, tmp_path: Path, number: signal.Signals
) -> None:
    heeding = ["env", "--default-signal=INT"]  # also where the tests themselves run in the background
    trial = [sys.executable, slurm_cluster.__file__, tmp_path / "cluster", "bash", "-c", "echo up; sleep 60"]
    starter = subprocess.Popen(
        [*heeding, *trial],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == "up\n"
    family = psutil.Process(starter.pid).children(recursive=True)
    assert {"slurmctld", "slurmd", "munged"} <= {process.name() for process in family}
    starter.send_signal(number)
    starter.wait(timeout=10)
    deadline = time.monotonic() + 10
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
