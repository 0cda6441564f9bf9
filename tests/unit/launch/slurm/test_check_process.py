"""The process that checks a node, as its agent sees it. It is a real one."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch.node_check.rates import Rate
from launch.slurm.check_process import CheckProcess

pytestmark = pytest.mark.slow


def answer(process: CheckProcess) -> dict[str, Any]:
    """The next answer of a process."""
    deadline = time.monotonic() + 120
    while not (found := process.read()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (one,) = found
    return one


@pytest.fixture
def process(tmp_path: Path) -> Iterator[CheckProcess]:
    (tmp_path / "shard.tar").write_bytes(bytes(2**20))
    process = CheckProcess(0, {"data": str(tmp_path), "seconds": 0.1})
    assert process.read() == [{"begun": True}]
    yield process
    process.close()


def test_a_process_measures_its_node_and_then_links(process: CheckProcess, tmp_path: Path) -> None:
    found = answer(process)
    assert found["failures"] == {}
    assert found["rates"].keys() == set(Rate)
    other = CheckProcess(1, {"data": None, "seconds": 0.1})
    try:
        assert answer(other) == {"begun": True}
        assert answer(other)["rates"].keys() == set(Rate) - {Rate.READ}
        for rank, one in enumerate((process, other)):
            order = {"round": 1, "meeting": str(tmp_path), "first": "127.0.0.1", "rank": rank}
            one.ask({"pair": order})
        for one in (process, other):
            link = answer(one)
            assert link["round"] == 1
            assert link["rate"] > 0
    finally:
        other.close()


def test_a_partner_that_does_not_come_is_a_failure(process: CheckProcess, tmp_path: Path) -> None:
    answer(process)
    order = {"round": 2, "meeting": str(tmp_path), "first": "127.0.0.1", "rank": 1}
    process.ask({"pair": order})
    found = answer(process)
    assert found["round"] == 2
    assert "did not come" in found["failure"]


def test_the_end_of_a_process_is_told_once_and_it_can_be_asked_in_vain(process: CheckProcess) -> None:
    os.kill(process._process.pid, signal.SIGKILL)
    found = answer(process)
    assert found["failure"].startswith("its process was ended by SIGKILL")
    process.ask({"pair": {}})
    assert process.read() == []


def test_a_process_that_stands_still_is_ended(process: CheckProcess) -> None:
    os.kill(process._process.pid, signal.SIGSTOP)
    process.close()
    assert process._process.poll() == -signal.SIGKILL
