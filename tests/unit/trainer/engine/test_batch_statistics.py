import copy
import math
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from deepspeed_ranks import engine_of, tiny, train
from torch import Tensor, nn

from trainer.engine.batch_statistics import BatchStatistics

BY_RANK = ("parallel.batch_norm=rank",)
IN_PAIRS = ("parallel.batch_norm_group=2",)


def statistics_after(steps: int, *overrides: str) -> dict[str, Tensor]:
    """The running statistics of this rank after some steps, of the network and of its momentum encoder."""
    config = tiny(*overrides)
    with engine_of(config) as engine:
        train(engine, config, range(steps))
        return {
            name: buffer.clone()
            for name, buffer in engine.method.named_buffers()
            if name.endswith(("running_mean", "running_var"))
        }


def with_and_without_mean(*overrides: str) -> list[dict[str, Tensor]]:
    shared = [statistics_after(steps, *overrides) for steps in (1, 3)]
    with patch.object(BatchStatistics, "start_mean", return_value=None):
        return [*shared, statistics_after(1, *overrides)]


@pytest.mark.parametrize(
    ("ranks", "overrides"),
    [
        (2, BY_RANK),
        (3, (*BY_RANK, "parallel.zero_stage=1")),
        (2, (*BY_RANK, "train.grad_accum_steps=2")),
        (4, IN_PAIRS),
    ],
)
def test_running_statistics_of_some_ranks_are_averaged_over_all(
    run_ranks: Callable[..., Any], ranks: int, overrides: tuple[str, ...]
) -> None:
    found = run_ranks(with_and_without_mean, ranks, *overrides)
    for step in (0, 1):
        first = found[0][step]
        assert any(name.startswith("momentum.") for name in first)
        for other in found[1:]:
            assert all(torch.equal(first[name], other[step][name]) for name in first)
    own = [of_rank[2] for of_rank in found]
    assert any(not torch.equal(own[0][name], own[-1][name]) for name in own[0])
    for name, averaged in found[0][0].items():
        torch.testing.assert_close(averaged, torch.stack([one[name] for one in own]).mean(0))


def messages_of_a_step(*overrides: str) -> bool:
    config = tiny(*overrides)
    with engine_of(config) as engine:
        return engine._statistics.start_mean() is not None


def test_statistics_of_all_ranks_need_no_message(run_ranks: Callable[..., Any]) -> None:
    assert run_ranks(messages_of_a_step, 2) == [False, False]
    assert run_ranks(messages_of_a_step, 1, *BY_RANK) == [False]


def test_running_moments_are_put_back_only_after_a_broken_step() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5)
    )
    twin = copy.deepcopy(net)
    statistics = BatchStatistics(net)
    x = torch.randn(8, 3, 2, 2)
    for broken in (False, True, False):
        statistics.keep()
        net(x * math.nan if broken else x)
        statistics.restore(torch.tensor(float(broken)))
        if not broken:
            twin(x)
    for name, buffer in twin.named_buffers():
        if "num_batches" not in name:
            assert torch.equal(dict(net.named_buffers())[name], buffer), name


def test_running_moments_keep_their_names_and_can_be_loaded() -> None:
    net = nn.Sequential(
        nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False, track_running_stats=False)
    )
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    statistics = BatchStatistics(net)
    assert net.state_dict().keys() == before.keys()
    net.load_state_dict({**before, "0.running_mean": torch.ones(3)})
    statistics.keep()
    net(torch.full((4, 3), math.inf))
    statistics.restore(torch.tensor(1.0))
    assert torch.equal(net.state_dict()["0.running_mean"], torch.ones(3))


def test_a_network_without_batch_norm_has_nothing_to_put_back() -> None:
    statistics = BatchStatistics(nn.Linear(2, 2))
    statistics.keep()
    statistics.restore(torch.ones((), device="meta"))  # copying it to the host, which would wait, is an error
