import hashlib

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.shards.subsets import held_out_subset, low_shot_subset

LABELS = np.repeat([0, 1, 2, -1], [40, 25, 10, 6])[np.random.default_rng(0).permutation(81)]
NAMES = ["a", "b", "c"]


def per_class(mask):
    return [int((LABELS[mask] == label).sum()) for label in range(3)]


@pytest.mark.parametrize(("share", "counts"), [(0.05, [2, 1, 1]), (0.1, [4, 3, 1]), (0.5, [20, 13, 5])])
def test_each_class_gives_its_share_and_smaller_shares_lie_inside(share, counts):
    mask = low_shot_subset(LABELS, share, 0, classes=NAMES)
    assert per_class(mask) == counts
    assert mask.sum() == sum(counts)
    assert not mask[~low_shot_subset(LABELS, 0.6, 0, classes=NAMES)].any()


def test_a_subset_is_that_of_its_seed_on_every_machine():
    masks = [low_shot_subset(LABELS, 0.3, seed, classes=NAMES) for seed in range(5)]
    assert len({mask.tobytes() for mask in masks}) == 5
    assert np.array_equal(masks[0], low_shot_subset(LABELS, 0.3, 0, classes=NAMES))
    labels = np.arange(1000) % 7
    found = np.flatnonzero(low_shot_subset(labels, 0.05, 3, classes=[*NAMES, "d", "e", "f", "g"]))
    assert hashlib.sha256(found.astype("<i8").tobytes()).hexdigest()[:16] == "3e1c5cce06de90b7"


def test_every_sample_is_as_likely_as_any_other():
    labels = np.arange(40) % 2
    drawn = sum(low_shot_subset(labels, 0.25, seed, classes=NAMES[:2]).astype(int) for seed in range(2000))
    assert np.abs(drawn / 2000 - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 2000)


@pytest.mark.parametrize(
    ("share", "message"),
    [(0.04, "4 % of 10 images leave no image of the class c\n.*5%"), (0.001, "0.1 % of")],
)
def test_a_share_that_loses_a_class_is_refused(share, message):
    with pytest.raises(UserError, match=message):
        low_shot_subset(LABELS, share, 0, classes=NAMES)


def test_one_image_of_each_class_is_too_few():
    with pytest.raises(UserError, match="leave only one image in each class"):
        low_shot_subset(np.arange(10) % 2, 0.2, 0, classes=NAMES[:2])


def test_a_class_without_images_loses_none():
    assert low_shot_subset(LABELS, 0.1, 0, classes=[*NAMES, "d"]).sum() == 8


def test_held_out_is_one_of_a_class_at_least_and_never_its_last():
    assert per_class(held_out_subset(LABELS, 0.1, 0, num_classes=3)) == [4, 3, 1]
    assert per_class(held_out_subset(LABELS, 0.001, 0, num_classes=3)) == [1, 1, 1]
    assert per_class(held_out_subset(LABELS, 0.999, 0, num_classes=3)) == [39, 24, 9]
    alone = held_out_subset(np.array([0, 0, 1, -1]), 0.5, 0, num_classes=2)
    assert alone.sum() == 1
    assert not alone[2:].any()


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [-1, -1], []])
def test_too_little_to_hold_out_of(labels):
    with pytest.raises(UserError, match="two classes"):
        held_out_subset(np.array(labels, np.int64), 0.1, 0, num_classes=3)
