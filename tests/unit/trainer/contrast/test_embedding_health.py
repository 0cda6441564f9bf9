import math

import pytest
import torch
import torch.nn.functional as F

from trainer.contrast.embedding_health import (
    collapse_signs,
    effective_rank,
    feature_std,
    gradient_shares,
    neighbor_values,
)
from trainer.contrast.queue import NeighborQueue, Neighbors, QueueSettings

GOOD = {"z_std": 0.1, "z_rank": 40.0, "neighbor_agreement": 0.6, "queue_filled": 1.0}


def test_effective_rank_counts_directions() -> None:
    basis = torch.linalg.qr(torch.randn(16, 16)).Q
    assert effective_rank(basis[:6]) == pytest.approx(6, rel=1e-4)
    assert effective_rank(basis[:1].expand(8, 16)) == pytest.approx(1, abs=1e-3)
    two = basis[:2] * torch.tensor([[3.0], [1.0]])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(two) == pytest.approx(math.exp(entropy), rel=1e-4)
    assert effective_rank(torch.zeros(4, 4)) == 1
    assert effective_rank(torch.full((4, 4), math.inf)).isnan()
    assert effective_rank(basis[:6].bfloat16()) == pytest.approx(6, rel=0.02)


def test_spread_is_that_of_the_sphere_and_0_at_a_point() -> None:
    torch.manual_seed(0)
    assert feature_std(torch.randn(4000, 64) * 7) == pytest.approx(1 / 8, rel=0.02)
    assert feature_std(torch.randn(1, 64).expand(10, 64)) == pytest.approx(0, abs=1e-6)


def test_shares_are_norms_of_gradients_and_leave_the_graph() -> None:
    weight = torch.randn(3, 4, requires_grad=True)
    z = [torch.randn(5, 3) @ weight, torch.randn(5, 3) @ weight]
    terms = {"both": 3 * (z[0].sum() + z[1].sum()), "one": (z[0] ** 2).sum() / 2}
    shares = gradient_shares(terms, z)
    both, one = 3 * math.sqrt(40), float(z[0].detach().norm())
    assert float(shares["both"]) == pytest.approx(both / (both + one), rel=1e-5)
    assert float(sum(shares.values())) == pytest.approx(1)
    assert weight.grad is None
    (terms["both"] + terms["one"]).backward()
    assert weight.grad is not None


def test_neighbor_values_know_age_and_cosine() -> None:
    queue = NeighborQueue(QueueSettings(size=8), 4)
    for batch in range(3):  # ids 0 to 5; the ring has two random rows left
        ids = torch.tensor([2 * batch, 2 * batch + 1])
        queue.enqueue_async([F.normalize(torch.randn(2, 4), dim=1)], ids, ids)
        queue.wait()
    indices = torch.tensor([[5], [0], [7]])
    found = Neighbors(queue.rows[indices], indices)
    keys = queue.rows[torch.tensor([5, 1, 7])]
    values = neighbor_values(queue, keys, found, batch=2)
    assert values["queue_filled"] == 0.75
    assert values["neighbor_age"] == (1 + 3) / 2
    cosine = (1 + float(queue.rows[1] @ queue.rows[0]) + 1) / 3
    assert float(values["neighbor_cosine"]) == pytest.approx(cosine, rel=1e-5)


@pytest.mark.parametrize(
    ("changed", "sign", "said"),
    [
        ({"z_std": 0.002}, "z_std", "collapsed to a point"),
        ({"z_rank": 1.4}, "z_rank", "rank is 1.4 of at most 32"),
        ({"neighbor_agreement": 0.11}, "neighbor_agreement", "11.0 % of them"),
    ],
)
def test_each_sign_of_a_collapse_is_named(changed: dict[str, float], sign: str, said: str) -> None:
    signs = collapse_signs(GOOD | changed, size=64, rows=32, classes=10)
    assert list(signs) == [sign]
    assert said in signs[sign]


@pytest.mark.parametrize(
    ("changed", "classes"),
    [
        ({}, 10),
        ({"neighbor_agreement": 0.11, "queue_filled": 0.9}, 10),
        ({"neighbor_agreement": 0.0}, 0),
        ({"neighbor_agreement": 0.55}, 2),
    ],
)
def test_a_healthy_run_has_no_sign(changed: dict[str, float], classes: int) -> None:
    assert not collapse_signs(GOOD | changed, size=64, rows=32, classes=classes)


def test_methods_without_a_queue_have_no_agreement() -> None:
    assert not collapse_signs({"z_std": 0.1, "z_rank": 9.0}, size=64, rows=32, classes=10)
