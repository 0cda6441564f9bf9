"""Times of collectives, against sums done by hand."""

import pytest

from trainer.profiling.network_model import Network

NETWORK = Network(4, 1.0, 100.0, 10.0, 20.0)


def test_a_sum_within_a_machine() -> None:
    assert NETWORK.seconds("all_reduce", 400.0, 4) == pytest.approx(2 * 2 * 1.0 + 2 * 3 / 4 * 400 / 100)


def test_a_scatter_of_a_sum_takes_half_as_long() -> None:
    for ranks in (4, 16):
        whole = NETWORK.seconds("all_reduce", 400.0, ranks)
        assert NETWORK.seconds("reduce_scatter_tensor", 400.0, ranks) == pytest.approx(whole / 2)


def test_a_gather_between_machines() -> None:
    expected = 2 * 1.0 + 2 * 10.0 + 3 * 4 * 40 / 100 + 3 * 40 / 20
    assert NETWORK.seconds("all_gather_single", 40.0, 16) == pytest.approx(expected)


def test_torchs_inner_names_are_understood() -> None:
    for name, inner in (("all_gather_single", "_allgather_base_"), ("all_reduce", "allreduce_")):
        assert NETWORK.seconds(name, 40.0, 16) == NETWORK.seconds(inner, 40.0, 16)
