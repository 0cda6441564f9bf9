"""The all-reduce of `all4one doctor`, between real processes on CPUs and with what goes wrong."""

import os
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from launch.doctor import all_reduce
from launch.doctor.all_reduce import GLOO, NCCL, bus_bandwidth
from launch.doctor.examination import Check, result
from launch.doctor.findings import OK, PROBLEM


def test_two_processes_find_the_right_sums_and_their_bandwidth() -> None:
    assert bus_bandwidth(GLOO, 2) > 0


def test_one_process_has_nothing_to_send() -> None:
    assert bus_bandwidth(GLOO, 1) == 0


def test_the_page_shows_the_bandwidth_of_cpus(tmp_path: Path) -> None:
    (finding,) = result(Check("gloo", "launch.doctor.all_reduce:gloo", 75), tmp_path)
    assert finding.level == OK, finding
    assert finding.what.endswith(" GB/s")


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "no GPU here"), (1, "NCCL works on one GPU"), (8, "8 GPUs with a bus bandwidth of 42.0 GB/s")],
)
def test_what_is_said_of_gpus(
    number: int, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def measured(backend: str, ranks: int) -> float:
        asked.append((backend, ranks))
        return 42e9

    monkeypatch.setattr(all_reduce, "count_gpus", lambda: number)
    monkeypatch.setattr(all_reduce, "bus_bandwidth", measured)
    (finding,) = all_reduce.nccl(tmp_path)
    assert finding.level == OK
    assert said in finding.what
    assert asked == ([(NCCL, number)] if number else [])


def test_a_process_that_fails_is_an_error_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"of 2 processes with nccl failed in process [01]: .*") as error:
        bus_bandwidth(NCCL, 2)
    assert "NCCL_DEBUG=INFO" in str(error.value.fix)


def test_processes_that_hang_are_killed_after_their_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids"
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, time\nopen({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n')\ntime.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match="gave no result within 3 s"):
        bus_bandwidth(GLOO, 2, seconds=3)
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 2
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_failure_is_a_line_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no_such_interface")
    (finding,) = result(Check("gloo", "launch.doctor.all_reduce:gloo", 75), tmp_path)
    assert finding.level == PROBLEM
    assert "an all-reduce of 2 processes with gloo failed" in finding.what
    assert "GLOO_SOCKET_IFNAME" in finding.fix
