"""The measurements of one node, on this machine."""

import os
from pathlib import Path

import pytest
import torch

from data_pipelines.errors import UserError
from launch.node_check import compute, files, images, rates
from launch.node_check.files import read_rate
from launch.node_check.rates import NodeRates, Rate, better_rates, measure_node, written


def test_a_node_tells_all_its_rates(tmp_path: Path) -> None:
    (tmp_path / "shard-000000.tar").write_bytes(os.urandom(2**20))
    found = measure_node(tmp_path, seconds=0.05)
    assert not found.failures
    assert set(found.rates) == set(Rate)
    assert min(found.rates.values()) > 0


def test_a_measurement_that_fails_stops_no_other_one(tmp_path: Path) -> None:
    found = measure_node(tmp_path / "nowhere", seconds=0.05)
    assert set(found.failures) == {Rate.READ}
    assert set(found.rates) == set(Rate) - {Rate.READ}


def test_a_disk_that_hangs_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "shard-000000.tar")  # opening it waits for a writer
    monkeypatch.setattr(rates, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(compute, "matrix_rate", lambda _: 1.0)
    monkeypatch.setattr(compute, "memory_rate", lambda _: 1.0)
    monkeypatch.setattr(images, "decode_rate", lambda _: 1.0)
    monkeypatch.setattr(files, "_size", lambda _: 1)
    found = measure_node(tmp_path, seconds=0.05)
    assert found.failures == {Rate.READ: "no answer within 1 s"}


def test_a_set_without_shards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.tar").touch()
    with pytest.raises(UserError, match="no shard"):
        read_rate(tmp_path, 0.05)


def test_a_device_that_multiplies_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compute._MATRIX, "cpu", (8, torch.float32))
    honest = torch.matmul

    def wrong(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        honest(left, right, out=out)
        out[0, 0] += 1e-3
        return out

    monkeypatch.setattr(torch, "matmul", wrong)
    with pytest.raises(UserError, match="two different products"):
        compute.matrix_rate(0.01)


@pytest.mark.parametrize(
    ("rate", "value", "said"),
    [
        (Rate.MATRIX, 5.5e10, "55 GFLOP/s"),
        (Rate.READ, 2.225e8, "222.5 MB/s"),
        (Rate.DECODE, 140.6, "140.6 images/s"),
    ],
)
def test_rates_are_written_with_their_unit(rate: Rate, value: float, said: str) -> None:
    assert written(rate, value) == said


def test_of_two_measurements_the_better_rates_count_and_each_failure_does() -> None:
    one = NodeRates("a", {Rate.DECODE: 10.0, Rate.READ: 5.0, Rate.MEMORY: 1.0})
    again = NodeRates("a", {Rate.DECODE: 8.0, Rate.READ: 9.0}, {Rate.MEMORY: "a copy differs"})
    assert better_rates(one, again) == NodeRates(
        "a", {Rate.DECODE: 10.0, Rate.READ: 9.0, Rate.MEMORY: 1.0}, {Rate.MEMORY: "a copy differs"}
    )
