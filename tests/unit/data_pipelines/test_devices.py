"""The device of a process. A machine without GPUs stands in for one whose driver cannot be used."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from data_pipelines.devices import choose_device, count_gpus
from data_pipelines.errors import UserError

NVML = """
int nvmlInit(void) { return 0; }
int nvmlDeviceGetCount_v2(int *count) { *count = 1; return 0; }
"""
"""A stand-in for NVIDIA's management library that lists one GPU."""
RANKS = """
import sys
from pathlib import Path
from launch.local.processes import launch
from launch.local.rank_processes import allow_forks, can_fork, prepare
if sys.argv[2] == "forks":
    allow_forks()
    prepare("launch.local.worker")
    assert can_fork()
sys.exit(launch("the_job", [], nproc=1, logs=Path(sys.argv[1])))
"""
JOB = """
from launch.local.rank_processes import heed_signals
from launch.local.worker import import_all, run_with_error_report
def main():
    heed_signals()
    from trainer.distributed.process_group import initialize
    print("device", run_with_error_report(initialize).device, flush=True)
    return 0
"""
without_gpus = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has GPUs")


@without_gpus
@pytest.mark.parametrize("way", ["forks", "starts anew"])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.slow
def test_gpus_that_are_listed_and_cannot_be_used(tmp_path: Path, way: str, hidden: bool) -> None:
    (tmp_path / "nvml.c").write_text(NVML)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "nvml.c"], check=True)
    (tmp_path / "the_job.py").write_text(JOB)
    (tmp_path / "launcher.py").write_text(RANKS)
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, tmp_path / "launcher.py", tmp_path / "logs", way],
        capture_output=True,
        text=True,
        env=os.environ | paths | ({"CUDA_VISIBLE_DEVICES": ""} if hidden else {}),
        timeout=120,
        check=False,
    )
    if hidden:
        assert (done.returncode, done.stdout) == (0, "device cpu\n"), done.stderr
        return
    assert done.returncode == 2, done.stderr
    assert "torch sees GPUs (1) and cannot use GPU 0: Found no NVIDIA driver" in done.stderr
    assert "CUDA_VISIBLE_DEVICES= (empty)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("index", [None, 1])
def test_a_gpu_that_fails_is_named(index: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.AcceleratorError("CUDA-capable device(s) is/are busy or unavailable\nmore")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", fail)
    with pytest.raises(UserError, match=rf"cannot use GPU {index or 0}: CUDA-capable device.* unavailable\n"):
        choose_device(index)
    with pytest.raises(UserError, match="process 2 of this node finds only 2 GPUs"):
        choose_device(2)


def test_a_driver_that_cannot_be_used_is_no_machine_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> int:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=1)
        return 0

    monkeypatch.setattr(torch.cuda, "device_count", count)
    for look in (count_gpus, choose_device):
        with pytest.raises(UserError, match=r"a CUDA driver that it cannot use: .*too old\n"):
            look()
