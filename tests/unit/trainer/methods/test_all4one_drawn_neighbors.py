"""The number of neighbors that is drawn for each image."""

from collections import Counter

import pytest
import torch
from all4one_formula import ROWS, make
from torch import Tensor

from data_pipelines.errors import UserError
from trainer.config.schema import load_config
from trainer.distributed.collectives import world_size
from trainer.methods.all4one import All4One


def drawn(method: All4One, seed: int, rows: int = ROWS) -> Tensor:
    method.shared_seed = seed
    return method._neighbor_counts(torch.empty(rows, 1))


def test_every_number_of_the_range_is_drawn_as_often() -> None:
    method = make("drawn k")
    rows = 20_000
    counts = Counter(drawn(method, 5, rows).tolist())
    assert counts.keys() == {1, 2, 3, 4, 5}
    assert all(abs(count - rows / 5) < 6 * (rows * 0.16) ** 0.5 for count in counts.values())
    assert set(drawn(make("drawn k of four or five, the paper's positions"), 5, 100).tolist()) == {4, 5}


def test_numbers_are_a_function_of_the_seed_of_the_step() -> None:
    method = make("drawn k")
    first = drawn(method, 3, 64)
    torch.manual_seed(9)
    assert torch.equal(drawn(method, 3, 64), first)
    assert not torch.equal(drawn(method, 4, 64), first)


def on_this_rank() -> Tensor:
    return drawn(make("drawn k"), 3, ROWS // world_size())


@pytest.mark.slow
def test_an_image_has_the_same_number_in_any_number_of_processes(run_ranks) -> None:
    wanted = on_this_rank()
    assert torch.equal(torch.cat(run_ranks(on_this_rank, 2)), wanted)


def test_a_minimum_above_the_maximum_is_one_message() -> None:
    with pytest.raises(UserError, match=r"min_neighbors \(6\) must not exceed num_neighbors \(5\)") as error:
        load_config("cifar10", ["method.min_neighbors=6"])
    assert str(error.value).count("must not") == 1
    load_config("cifar10", ["method.min_neighbors=6", "method.centroid_weight=0"])
    load_config("cifar10", ["method.min_neighbors=5"])
