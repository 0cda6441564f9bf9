import math
import re
from itertools import islice

import pytest
import torch
from noise_sets import DATA, make_set
from torch import nn

from data_pipelines.errors import UserError
from data_pipelines.progress import ProgressBars
from data_pipelines.shards.shard_set import ShardSet
from trainer.evaluation.crops import TrainLoader, crop_view
from trainer.evaluation.linear_heads import LinearHeads
from trainer.evaluation.linear_protocol import LinearProtocol, linear_protocol

SHORT = LinearProtocol(epochs=3, batch=16, learning_rates=(0.01, 1.0), held_out=0.2)


class Pooled(nn.Module):
    """Brightness of the quarters of an image, and how often it was asked."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        return (self.scale * nn.functional.adaptive_avg_pool2d(images, 2)).flatten(1)


@pytest.fixture
def sets(tmp_path):
    return make_set(tmp_path / "train", 60), make_set(tmp_path / "validation", 20)


def evaluated(sets, state, protocol=SHORT, backbone=None):
    train, validation = map(ShardSet.open, sets)
    return dict(
        linear_protocol(
            {"online": (backbone or Pooled()).eval()},
            train,
            validation,
            DATA,
            protocol,
            weights="w",
            state=state,
            progress=ProgressBars(False),
        )
    )


def test_classes_that_differ_are_told_apart_and_settings_are_kept(sets, tmp_path):
    backbone = Pooled()
    result = evaluated(sets, tmp_path / "state", backbone=backbone)["online"]
    assert result["top1"] > 0.9
    assert result["interval"][0] < result["top1"] <= result["interval"][1]
    assert result["learning_rate"] in SHORT.learning_rates
    by_rate = result["held_out_top1_by_learning_rate"]
    assert result["held_out_top1"] == by_rate[str(result["learning_rate"])] == max(by_rate.values())
    assert result["held_out_images"] == 12  # a fifth of each class of 30
    assert (result["epochs"], result["batch"], result["seed"]) == (3, 16, 0)
    # once a step for all rates: 3 epochs of 48 images; then held-out and validation images; and its width
    assert backbone.calls == 3 * 3 + 1 + 1 + 1
    assert backbone.scale.grad is None
    assert not (tmp_path / "state").exists()


class Killed(Exception):
    pass


@pytest.mark.parametrize("steps", [4, 8])
def test_a_killed_training_ends_like_one_that_was_not(sets, tmp_path, monkeypatch, steps):
    whole = evaluated(sets, tmp_path / "whole")
    original = LinearHeads.step
    count = 0

    def step(*args, **options):
        nonlocal count
        count += 1
        if count > steps:
            raise Killed
        return original(*args, **options)

    monkeypatch.setattr(LinearHeads, "step", step)
    with pytest.raises(Killed):
        evaluated(sets, tmp_path / "state")
    count = -100
    backbone = Pooled()
    assert evaluated(sets, tmp_path / "state", backbone=backbone) == whole
    assert backbone.calls == 3 * 3 - steps // 3 * 3 + 3


def test_held_out_images_are_not_learned_from(sets, tmp_path, monkeypatch):
    learned = []
    original = TrainLoader.batches

    def batches(self, start):
        for batch in islice(original(self, start), 9):
            learned.append(len(batch.labels))
            yield batch

    monkeypatch.setattr(TrainLoader, "batches", batches)
    seen = []
    subset = ShardSet.subset
    monkeypatch.setattr(ShardSet, "subset", lambda self, ids: seen.append(set(ids)) or subset(self, ids))
    evaluated(sets, tmp_path / "state")
    fit, held_out = seen
    assert not fit & held_out
    assert len(fit | held_out) == 60
    assert learned == [16] * 9


def ranks_evaluated(sets, state):
    return evaluated(sets, state)


def test_two_ranks_find_what_one_does(run_ranks, sets, tmp_path):
    alone = evaluated(sets, tmp_path / "state")
    for found in run_ranks(ranks_evaluated, 2, sets, tmp_path / "state"):
        assert found == alone


def test_a_recipe_that_never_flips_is_not_flipped_here():
    still = DATA.views[0].model_copy(update={"flip_prob": 0.0, "blur_prob": 0.5, "crop_scale": (0.5, 1.0)})
    view = crop_view(DATA.model_copy(update={"views": (still, still)}))
    assert (
        view.flip_prob,
        view.color_jitter_prob,
        view.grayscale_prob,
        view.blur_prob,
        view.solarize_prob,
    ) == (0, 0, 0, 0, 0)
    assert view.crop_scale == (0.08, 1.0)
    assert crop_view(DATA).flip_prob == 0.5


def test_wrong_input_is_named(sets, tmp_path):
    with pytest.raises(UserError, match=re.escape("fewer than one global batch of 64")):
        evaluated(sets, tmp_path / "state", SHORT.model_copy(update={"batch": 64}))
    broken = Pooled()
    nn.init.constant_(broken.scale, math.nan)
    with pytest.raises(UserError, match="not finite"):
        evaluated(sets, tmp_path / "state", backbone=broken)
