"""The online classifier's accuracy, held to a count by hand."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_processes import run_as_ranks
from torch import Tensor, nn

from data_pipelines.errors import UserError
from trainer.evaluation import online_classifier
from trainer.evaluation.online_classifier import online_accuracy


def by_hand(classifier: nn.Linear, features: Tensor, labels: Tensor) -> tuple[float, float]:
    """Top-1 and top-5, image by image, from a stable sort of its logits."""
    places = []
    for row, label in zip(features, labels.tolist(), strict=True):
        if label >= 0:
            logits = [
                sum(w * x for w, x in zip(ws, row.tolist(), strict=True)) for ws in classifier.weight.tolist()
            ]
            logits = [one + bias for one, bias in zip(logits, classifier.bias.tolist(), strict=True)]
            places.append(sorted(range(len(logits)), key=lambda c: -logits[c]).index(label))
    return sum(p < 1 for p in places) / len(places), sum(p < 5 for p in places) / len(places)


def a_set(classes: int, images: int, seed: int) -> tuple[nn.Linear, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    classifier = nn.Linear(3, classes, dtype=torch.float64)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    features = torch.randn(images, 3, generator=draw, dtype=torch.float64)
    return classifier, features, torch.randint(-1, classes, (images,), generator=draw)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 7), st.integers(0, 1000))
def test_it_is_the_fraction_that_a_count_by_hand_gives(
    classes: int, images: int, rows: int, seed: int
) -> None:
    classifier, features, labels = a_set(classes, images, seed)
    labels[0] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(online_classifier, "ROWS", rows)
        found = online_accuracy(classifier, features, labels)
    assert (found.top1, found.top5) == pytest.approx(by_hand(classifier, features, labels))


def own_part() -> tuple[float, float]:
    """Rank 0 has 3 images, rank 1 none, and rank 2 the other 14."""
    classifier, features, labels = a_set(10, 17, 1)
    begin, end = ((0, 3), (3, 3), (3, 17))[dist.get_rank()]
    found = online_accuracy(classifier, features[begin:end], labels[begin:end])
    return found.top1, found.top5


def test_ranks_count_every_image_once(tmp_path: Path) -> None:
    found = run_as_ranks(own_part, 3, tmp_path, ())
    assert found == [pytest.approx(by_hand(*a_set(10, 17, 1)))] * 3


def test_a_set_without_labels_is_an_error() -> None:
    classifier, features, _ = a_set(10, 4, 0)
    with pytest.raises(UserError, match="has a label"):
        online_accuracy(classifier, features, torch.full((4,), -1))
