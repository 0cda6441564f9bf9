import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from data_pipelines.errors import UserError
from trainer.distributed.collectives import rank, world_size
from trainer.distributed.process_group import agree
from trainer.evaluation.features import EvaluationInterrupted
from trainer.evaluation.knn import KNNResult, knn_accuracies, knn_accuracy

pytestmark = pytest.mark.slow


def straight_knn(train, train_labels, test, test_labels, k, temperature, num_classes):
    """One test sample, one neighbor, one vote at a time, in float64."""
    train = [
        (row / max(np.linalg.norm(row), 1e-12), y)
        for row, y in zip(train, train_labels, strict=True)
        if y >= 0
    ]
    hits = {1: 0, 5: 0}
    tested = [
        (row / max(np.linalg.norm(row), 1e-12), y) for row, y in zip(test, test_labels, strict=True) if y >= 0
    ]
    for row, label in tested:
        nearest = sorted(((float(other @ row), y) for other, y in train), key=lambda p: (-p[0], p[1]))[:k]
        votes = {}
        for similarity, y in nearest:
            votes[y] = votes.get(y, 0.0) + math.exp((similarity - nearest[0][0]) / temperature)
        ranking = sorted(votes, key=lambda y: (-votes[y], y))
        for n in hits:
            hits[n] += label in ranking[:n]
    return KNNResult(hits[1] / len(tested), hits[5] / len(tested))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 40),
    m=st.integers(1, 12),
    k=st.integers(1, 30),
    temperature=st.sampled_from([0.001, 0.07, 1.0]),
    num_classes=st.integers(1, 12),
    chunk=st.integers(1, 5),
)
def test_accuracy_is_the_straight_formula(seed, n, m, k, temperature, num_classes, chunk):
    rng = np.random.default_rng(seed)
    train, test = rng.standard_normal((n, 6)), rng.standard_normal((m, 6))
    labels, test_labels = rng.integers(-1, num_classes, n), rng.integers(-1, num_classes, m)
    labels[0], test_labels[0] = 0, num_classes - 1
    found = knn_accuracy(
        *map(torch.from_numpy, (train, labels, test, test_labels)),
        k=k,
        temperature=temperature,
        num_classes=num_classes,
        chunk=chunk,
    )
    assert found == straight_knn(train, labels, test, test_labels, k, temperature, num_classes)


def digits():
    features, labels = load_digits(return_X_y=True)
    features, labels = torch.from_numpy(features), torch.from_numpy(labels)
    return features[:1200], labels[:1200], features[1200:], labels[1200:]


def test_several_numbers_of_neighbors_are_each_on_its_own():
    train, labels, test, test_labels = digits()
    train, test = train.round(decimals=-1), test.round(decimals=-1)  # many rows of the same similarity
    sets = train, labels, test[:100], test_labels[:100]
    together = knn_accuracies(*sets, ks=[3, 20, 150], temperature=0.5, num_classes=10)
    assert list(together) == [3, 20, 150]
    for k, found in together.items():
        assert found == knn_accuracy(*sets, k=k, temperature=0.5, num_classes=10)
    assert len(set(together.values())) == 3


def test_accuracy_on_digits_is_scikit_learn_s():
    train, labels, test, test_labels = digits()
    found = knn_accuracy(train, labels, test, test_labels, k=20, temperature=0.07, num_classes=10)
    classifier = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(train.numpy(), labels.numpy())
    ranking = classifier.predict_proba(test.numpy()).argsort(axis=1)[:, ::-1]
    assert (
        found.top1
        == classifier.score(test.numpy(), test_labels.numpy())
        == (pytest.approx((ranking[:, 0] == test_labels.numpy()).mean()))
    )
    assert 0.95 < found.top1 <= found.top5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_gives_nearly_the_same(dtype):
    train, labels, test, test_labels = digits()
    exact = knn_accuracy(train, labels, test, test_labels, num_classes=10)
    found = knn_accuracy(train.to(dtype), labels, test.to(dtype), test_labels, num_classes=10)
    assert found.top1 == pytest.approx(exact.top1, abs=0.005)


def test_equal_votes_go_to_the_lower_class_and_unseen_classes_are_never_guessed():
    train = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    guess = {"k": 2, "num_classes": 4}
    for label, top1, top5 in ((1, 1, 1), (2, 0, 1), (0, 0, 0), (3, 0, 0)):
        found = knn_accuracy(train, torch.tensor([2, 1]), train[:1], torch.tensor([label]), **guess)
        assert found == KNNResult(top1, top5)


def test_k_beyond_the_training_set_means_all_of_it():
    train, labels, test, test_labels = digits()
    small = train[:7], labels[:7], test, test_labels
    assert knn_accuracy(*small, k=1000, num_classes=10) == knn_accuracy(*small, k=7, num_classes=10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": torch.tensor([-1, -1, -1])}, "no training sample has a label"),
        ({"test_labels": torch.tensor([-1, -1])}, "no test sample has a label"),
        ({"train_labels": torch.tensor([0, 1])}, r"\[3, 2\] and labels \[2\]"),
        ({"test_features": torch.ones(2)}, r"\[2\] and labels \[2\]"),
        ({"test_features": torch.ones(2, 5)}, "have size 2, but test features have size 5"),
        ({"test_labels": torch.tensor([0, 2])}, "from 0 to 2, outside the 2 classes"),
        ({"train_labels": torch.tensor([0, -2, 1])}, "outside the 2 classes"),
        ({"train_features": torch.full((3, 2), math.nan)}, "training features are not finite"),
    ],
)
def test_wrong_input_is_named(change, message):
    usual = {
        "train_features": torch.ones(3, 2),
        "train_labels": torch.tensor([0, 1, 1]),
        "test_features": torch.ones(2, 2),
        "test_labels": torch.tensor([0, 1]),
    }
    with pytest.raises(UserError, match=message):
        knn_accuracy(**{**usual, **change}, num_classes=2)


def signs(n, classes, seed):
    """Samples of four signs and a label or none: their cosines are exact, and most have many equals."""
    generator = torch.Generator().manual_seed(seed)
    features = 2.0 * torch.randint(2, (n, 4), generator=generator) - 1
    return features, torch.randint(-1, classes, (n,), generator=generator)


def clouds(n, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=generator), torch.randint(-1, classes, (n,), generator=generator)


def cases():
    """Training set, test set and options; 61 and 23 samples do not divide by 2 or 3 ranks."""
    for make in (signs, clouds):
        train, test = make(61, 7, seed=1), make(23, 7, seed=2)
        for k, chunk in ((1, 1), (5, 4), (20, 256), (28, 7), (1000, 5)):
            yield (*train, *test), {"k": k, "chunk": chunk, "num_classes": 7}
    few = clouds(2, 3, seed=3)[0], torch.tensor([0, 2])
    yield (*few, *clouds(40, 3, seed=4)), {"k": 2, "chunk": 256, "num_classes": 3}
    one_test_sample = clouds(1, 3, seed=5)[0], torch.tensor([1])
    yield (*clouds(40, 3, seed=6), *one_test_sample), {"k": 3, "chunk": 2, "num_classes": 3}


@pytest.mark.parametrize(("samples", "options"), list(cases()))
def test_equal_similarities_go_to_the_lower_class(samples, options):
    expected = straight_knn(
        *(part.double().numpy() if part.is_floating_point() else part.numpy() for part in samples),
        options["k"],
        0.07,
        options["num_classes"],
    )
    assert knn_accuracy(*samples, **options) == expected


def shares_of_cases():
    """Each rank's results of all cases, once for interleaved shares and once where the last rank has nearly all."""
    results = []
    for (train, labels, test, test_labels), options in cases():
        for own in (
            slice(rank(), None, world_size()),
            slice(rank(), None if rank() == world_size() - 1 else rank() + 1),
        ):
            results.append(knn_accuracy(train[own], labels[own], test[own], test_labels[own], **options))
    return results


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_shares_of_ranks_give_the_result_of_the_whole(run_ranks, ranks):
    whole = [knn_accuracy(*samples, **options) for samples, options in cases() for _ in range(2)]
    assert run_ranks(shares_of_cases, ranks) == [whole] * ranks


def stopped_and_refused():
    """The exit code of a stop that one rank asks for, how often each polled, and what a wrong share is told."""
    polls = []

    def stop():
        polls.append(None)
        return agree(143 if rank() == 1 and len(polls) == 3 else 0)

    features, labels = clouds(9 + rank(), 3, seed=rank())
    with pytest.raises(EvaluationInterrupted) as stopped:
        knn_accuracy(features, labels, features, labels, num_classes=3, chunk=2, stop=stop)
    if rank() == 1:
        features[4, 0] = math.nan
    with pytest.raises(UserError) as refused:
        knn_accuracy(features, labels, features, labels, num_classes=3)
    return stopped.value.code, len(polls), refused.value.what


def test_all_ranks_stop_and_fail_together(run_ranks):
    assert run_ranks(stopped_and_refused, 2) == [(143, 3, "training features are not finite")] * 2
