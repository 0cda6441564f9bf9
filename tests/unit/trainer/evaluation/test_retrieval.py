import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.errors import UserError
from trainer.distributed.collectives import rank, world_size
from trainer.evaluation.retrieval import retrieval


def straight_retrieval(features, labels):
    """One query, one ranking at a time, in float64."""
    kept = [(row / np.linalg.norm(row), y) for row, y in zip(features, labels, strict=True) if y >= 0]
    precisions, hits = [], {1: 0, 5: 0, 10: 0}
    for number, (query, label) in enumerate(kept):
        others = [(float(row @ query), -i, y) for i, (row, y) in enumerate(kept) if i != number]
        right = [y == label for _, _, y in sorted(others, reverse=True)]
        if not any(right):
            continue
        precisions.append(
            np.mean([sum(right[: place + 1]) / (place + 1) for place, hit in enumerate(right) if hit])
        )
        for k in hits:
            hits[k] += any(right[:k])
    return np.mean(precisions), {k: n / len(precisions) for k, n in hits.items()}, len(precisions)


def random_set(seed, count, num_classes):
    rng = np.random.default_rng(seed)
    features, labels = rng.standard_normal((count, 4)), rng.integers(-1, num_classes, count)
    labels[:2] = 0
    return features, labels


def assert_straight(found, features, labels):
    precision, recall, queries = straight_retrieval(features, labels)
    assert found.map == pytest.approx(precision, abs=1e-12)
    assert found.recall == pytest.approx(recall, abs=1e-12)
    assert found.queries == queries


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(2, 40),
    num_classes=st.integers(1, 9),
    chunk=st.integers(1, 9),
)
def test_retrieval_is_the_straight_formula(seed, count, num_classes, chunk):
    features, labels = random_set(seed, count, num_classes)
    inputs = [*map(torch.from_numpy, (features, labels)), torch.arange(count)]
    found = retrieval(*inputs, num_classes=num_classes, chunk=chunk)
    assert_straight(found, features, labels)


def test_of_images_equally_near_the_earlier_comes_first():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1])
    # rankings of classes, itself left out: 1 0 1 for the first; 0 1 0 for the second; 1 1 0 and 1 0 0 for the others
    found = retrieval(features, labels, torch.arange(4), num_classes=2)
    assert found.map == pytest.approx((1 / 2 + 1 / 2 + 1 / 3 + 1) / 4)
    assert found.recall[1] == 1 / 4


def ranks_retrieval(features, labels, cuts):
    own = slice(cuts[rank()], cuts[rank() + 1]) if cuts else slice(rank(), None, world_size())
    ids = torch.arange(len(labels))
    return retrieval(features[own], labels[own], ids[own], num_classes=5, chunk=3)


@pytest.mark.parametrize("cuts", [(0, 13, 30), (0, 30, 30)])
def test_shares_of_any_size_give_the_result_of_the_whole(run_ranks, cuts):
    features, labels = random_set(3, 30, 5)
    for found in run_ranks(ranks_retrieval, 2, *map(torch.from_numpy, (features, labels)), cuts):
        assert_straight(found, features, labels)


def test_equally_near_images_are_ranked_alike_whatever_the_ranks(run_ranks):
    rng = np.random.default_rng(5)
    features, labels = np.eye(3)[rng.integers(0, 3, 40)], rng.integers(-1, 5, 40)
    for found in run_ranks(ranks_retrieval, 2, *map(torch.from_numpy, (features, labels)), None):
        assert_straight(found, features, labels)


def test_a_set_without_two_of_a_class_is_refused():
    with pytest.raises(UserError, match="no class has two images"):
        retrieval(torch.randn(3, 2), torch.tensor([0, 1, -1]), torch.arange(3), num_classes=2)
