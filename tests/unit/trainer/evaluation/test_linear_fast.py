import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from data_pipelines.errors import UserError
from trainer.evaluation.linear_fast import L2_SWEEP, fit, linear_probe
from trainer.evaluation.sharded_rows import ShardedRows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits():
    features, labels = load_digits(return_X_y=True)
    features, labels = torch.from_numpy(features), torch.from_numpy(labels)
    return features[:1000], labels[:1000], features[1000:], labels[1000:]


def all_of(features, labels):
    return ShardedRows.choose(features, labels, labels >= 0)


def loss_of(weights, features, labels, l2):
    logits = features @ weights[:, :-1].T + weights[:, -1]
    return torch.nn.functional.cross_entropy(logits, labels) + l2 / 2 * weights[:, :-1].square().sum()


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_the_optimum_is_scikit_learn_s(digits, l2):
    features, labels, test, _ = digits
    mean, std = features.mean(0), features.std(0).clamp(min=1)
    features, test = (features - mean) / std, (test - mean) / std
    weights, converged = fit(all_of(features, labels), l2, torch.zeros(10, 65, dtype=torch.float64))
    assert converged
    other = LogisticRegression(C=1 / (l2 * len(labels)), tol=1e-8, max_iter=5000).fit(features, labels)
    theirs = torch.from_numpy(np.c_[other.coef_, other.intercept_])
    mine, reference = (loss_of(w, features, labels, l2).item() for w in (weights, theirs))
    assert mine == pytest.approx(reference, rel=1e-6)
    probabilities = (test @ weights[:, :-1].T + weights[:, -1]).softmax(1)
    np.testing.assert_allclose(probabilities, other.predict_proba(test), atol=2e-3)


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_float32_finds_the_optimum_of_float64(digits, l2):
    features, labels, *_ = digits
    features = (features - features.mean(0)) / features.std(0).clamp(min=1)
    exact, _ = fit(all_of(features, labels), l2, torch.zeros(10, 65, dtype=torch.float64))
    found, converged = fit(all_of(features.float(), labels), l2, torch.zeros(10, 65))
    assert converged
    best, reached = (loss_of(w.double(), features, labels, l2).item() for w in (exact, found))
    assert reached == pytest.approx(best, rel=1e-3)


def test_the_gradient_vanishes_at_the_optimum_in_autograd_s_eyes(digits):
    features, labels, *_ = digits
    weights, _ = fit(all_of(features / 16, labels), 0.01, torch.zeros(10, 65, dtype=torch.float64))
    weights.requires_grad_()
    loss_of(weights, features / 16, labels, 0.01).backward()
    assert weights.grad.abs().max() < 1e-6


def test_digits(digits):
    train, labels, test, test_labels = digits
    found = linear_probe(train, labels, test, test_labels, num_classes=10, seed=0)
    best = max(
        LogisticRegression(C=1 / (l2 * len(labels)), max_iter=2000)
        .fit((train - train.mean(0)) / train.std(0).clamp(min=1e-3), labels)
        .score((test - train.mean(0)) / train.std(0).clamp(min=1e-3), test_labels)
        for l2 in (1e-1, 1e-2, 1e-3)
    )
    assert found.converged
    assert found.l2 in L2_SWEEP
    assert found.top1 == pytest.approx(best, abs=0.02)
    assert found.top1 <= found.top5 <= 1
    assert found.interval[0] < found.top1 < found.interval[1]
    assert 0.9 < found.held_out_top1 <= 1
    assert 0.95 < found.train_top1 <= 1


def test_the_probe_is_scikit_learn_s_classifier_of_the_same_penalty(digits):
    train, labels, test, test_labels = digits
    found = linear_probe(train, labels, test, test_labels, num_classes=10, seed=0)
    mean, std = train.mean(0), train.std(0, correction=0)
    std[std == 0] = 1
    other = LogisticRegression(C=1 / (found.l2 * len(labels)), tol=1e-6, max_iter=5000)
    score = other.fit((train - mean) / std, labels).score((test - mean) / std, test_labels)
    assert found.top1 == pytest.approx(score, abs=0.005)


def test_the_same_seed_gives_the_same_result_and_the_test_set_chooses_nothing(digits):
    train, labels, test, test_labels = digits
    first = linear_probe(train, labels, test, test_labels, num_classes=10, seed=3)
    assert linear_probe(train, labels, test, test_labels, num_classes=10, seed=3) == first
    other = linear_probe(train, labels, -test, test_labels.flip(0), num_classes=10, seed=3)
    chosen = ("l2", "held_out_top1", "train_top1", "converged")
    assert [asdict(other)[name] for name in chosen] == [asdict(first)[name] for name in chosen]


def test_scale_shift_and_constant_features_do_not_matter(digits):
    train, labels, test, test_labels = digits
    usual = linear_probe(train, labels, test, test_labels, num_classes=10, seed=0)
    moved = linear_probe(
        torch.cat([1000 * train + 7, torch.full((len(train), 1), 3.0)], 1),
        labels,
        torch.cat([1000 * test + 7, torch.full((len(test), 1), 3.0)], 1),
        test_labels,
        num_classes=10,
        seed=0,
    )
    assert moved.top1 == pytest.approx(usual.top1, abs=0.004)


def test_samples_without_label_change_nothing(digits):
    train, labels, test, test_labels = digits
    usual = linear_probe(train, labels, test, test_labels, num_classes=10, seed=0)
    noise, none = torch.full((5, 64), 99.0, dtype=torch.float64), torch.full((5,), -1)
    found = linear_probe(
        torch.cat([train, noise]),
        torch.cat([labels, none]),
        torch.cat([noise, test]),
        torch.cat([none, test_labels]),
        num_classes=10,
        seed=0,
    )
    assert found == usual


def test_features_without_information_are_at_chance():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(600, 8, generator=generator), torch.arange(600) % 4
    found = linear_probe(features[:400], labels[:400], features[400:], labels[400:], num_classes=4, seed=0)
    assert found.interval[0] < 0.25 < found.interval[1]


def test_more_classes_than_occur(digits):
    train, labels, test, test_labels = digits
    found = linear_probe(train[:300], labels[:300], test, test_labels, num_classes=50, seed=0)
    assert found.top1 > 0.85


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": torch.full((6,), -1)}, "no training sample has a label"),
        ({"train_labels": torch.ones(6, dtype=torch.int64)}, "two classes"),
        ({"train_labels": torch.tensor([0, 1, 2, -1, -1, -1])}, "at least two of one class"),
        ({"train_labels": torch.tensor([0, 1])}, r"\[6, 2\] and labels \[2\]"),
        ({"test_features": torch.ones(2, 5)}, "have size 2, but test features have size 5"),
        ({"test_labels": torch.tensor([0, 3])}, "outside the 3 classes"),
        ({"test_features": torch.full((2, 2), math.inf)}, "test features are not finite"),
    ],
)
def test_wrong_input_is_named(change, message):
    usual = {
        "train_features": torch.randn(6, 2),
        "train_labels": torch.tensor([0, 1, 2, 0, 1, 2]),
        "test_features": torch.randn(2, 2),
        "test_labels": torch.tensor([0, 1]),
    }
    with pytest.raises(UserError, match=message):
        linear_probe(**{**usual, **change}, num_classes=3, seed=0)


def test_features_that_are_all_alike_are_right_by_chance() -> None:
    features, labels = torch.full((400, 8), 3.0), torch.arange(400) % 10
    found = linear_probe(features, labels, features[:100], labels[:100], num_classes=10, seed=0)
    assert (found.top1, found.top5) == (0.1, 0.5)
    assert found.held_out_top1 == pytest.approx(0.1)
