"""ReSA against its formula in float64, on one process and on two; its assignment, and its predictor."""

import pytest
import torch
from multi_crop import ROWS, build, computed, features, result, tensors, views
from straight_formulas import Result, Tensors, assert_same, fixed_norm, three, two, unit
from torch import Tensor

from trainer.contrast.assignments import assign_to_images
from trainer.distributed.collectives import gather, rank, world_size
from trainer.methods import Method
from trainer.methods.resa import ReSASettings


def make(predictor_hidden: int = 12) -> Method:
    """The method, with a momentum encoder that has gone another way than what it follows."""
    method = build(ReSASettings(projector_hidden=16, predictor_hidden=predictor_hidden, embedding_dim=8))
    with torch.no_grad():
        for copy, _ in method.ema_pairs():
            for parameter in copy.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def balanced(cosines: Tensor, iterations: int = 3) -> Tensor:
    """exp(C / 0.05) [N, N], with columns and then rows divided by their sums, several times."""
    matrix = (cosines / 0.05).exp()
    for _ in range(iterations):
        matrix = matrix @ torch.diag(1 / matrix.sum(0))
        matrix = torch.diag(1 / matrix.sum(1)) @ matrix
    return matrix


def embedding(p: Tensors, x: Tensor, copy: str = "") -> Tensor:
    """The projector, whose last batch norm has neither scale nor offset."""
    return fixed_norm(three(p, f"{copy}projector", features(p, x, copy)))


def expected(predictor_hidden: int) -> Result:
    p, learn = tensors(make(predictor_hidden))
    images = views()
    first = unit(features(p, images[0])).detach() @ unit(features(p, images[0], "momentum.")).T
    assignment = balanced(first)
    keys = [unit(embedding(p, x, "momentum.")) for x in images[:2]]
    total, pairs = torch.zeros((), dtype=torch.float64), 0
    for view, x in enumerate(images):
        z = embedding(p, x)
        queries = unit(two(p, "predictor", z) if predictor_hidden else z)
        for other in (0, 1):
            if other == view:
                continue
            pairs += 1
            for row in range(ROWS):
                e = (queries[row] @ keys[other].T / 0.4).exp()
                total = total - sum(assignment[row, i] * (e[i] / e.sum()).log() for i in range(ROWS)) / ROWS
    assert pairs == 8  # five views, two of them also keys
    return result(total / pairs, p, learn)


def on_this_rank(predictor_hidden: int) -> Result:
    return computed(make(predictor_hidden))


@pytest.mark.parametrize("predictor_hidden", [12, 0])
@pytest.mark.parametrize("ranks", [1, 2])
def test_loss_and_gradients_are_those_of_the_whole_batch(
    run_ranks, ranks: int, predictor_hidden: int
) -> None:
    for found in run_ranks(on_this_rank, ranks, predictor_hidden):
        assert_same(found, expected(predictor_hidden))


def rows_and_keys() -> Tensor:
    return torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def own_assignment(iterations: int) -> Tensor:
    rows, keys = (x.chunk(world_size())[rank()] for x in rows_and_keys())
    return assign_to_images(rows, gather(unit(keys)), epsilon=0.05, iterations=iterations)


@pytest.mark.parametrize("ranks", [1, 3])
def test_each_image_of_all_ranks_gets_the_same_weight(run_ranks, ranks: int) -> None:
    rows, keys = rows_and_keys()
    few = torch.cat(run_ranks(own_assignment, ranks, 2))
    torch.testing.assert_close(few, balanced(unit(rows) @ unit(keys).T, 2))
    many = torch.cat(run_ranks(own_assignment, ranks, 2000))
    torch.testing.assert_close(many.sum(1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(many.sum(0), torch.ones(6, dtype=torch.float64), rtol=1e-3, atol=0)


def test_alike_features_share_their_weight_and_unlike_ones_keep_it() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = assign_to_images(features, features, epsilon=0.05, iterations=3)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]))


def test_the_assignment_has_no_gradient() -> None:
    features = torch.randn(4, 3, requires_grad=True)
    keys = unit(torch.randn(4, 3))
    assert not assign_to_images(features, keys, epsilon=0.05, iterations=3).requires_grad
