import copy
import math
from contextlib import contextmanager

import pytest
import torch
from noise_sets import DATA, make_set
from torch import nn

from data_pipelines.errors import UserError
from data_pipelines.progress import ProgressBars
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.shards.subsets import low_shot_subset
from trainer.evaluation.classifier import Classifier
from trainer.evaluation.finetune import FinetuneProtocol, finetune

pytestmark = pytest.mark.slow

SHORT = FinetuneProtocol(shares=(0.5, 1.0), epochs=2, batch=8, learning_rates=(0.01, 0.5), held_out=0.2)
EPOCH = {0.5: 3, 1.0: 6}
"""Steps on what is left of 30 and of 60 images when a fifth of each class is held out."""
STEPS = 2 * 2 * (EPOCH[0.5] + EPOCH[1.0])
"""Of one backbone: two epochs of two learning rates of each share."""


def make_backbone():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 4, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers).to(memory_format=torch.channels_last).eval()


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    return make_set(folder / "train", 60), make_set(folder / "validation", 20)


class Listening(ProgressBars):
    """Shows nothing, and keeps what it was to show."""

    def __init__(self):
        super().__init__(False)
        self.said, self.tasks = [], []

    def say(self, message):
        self.said.append(message)

    @contextmanager
    def task(self, name, total, done=0):
        self.tasks.append((name, total, done))
        yield lambda status="": None


def evaluated(sets, state, protocol=SHORT, progress=None, **backbones):
    train, validation = map(ShardSet.open, sets)
    found = finetune(
        backbones or {"online": make_backbone()},
        train,
        validation,
        DATA,
        protocol,
        weights="w",
        state=state,
        progress=progress or ProgressBars(False),
    )
    return {(backbone, evaluator): result for backbone, evaluator, result in found}


@pytest.fixture
def counted(monkeypatch):
    """Steps taken, and the number of the step at which the process dies."""
    counts = {"steps": 0, "last": -1}
    original = Classifier.step

    def step(*args):
        if counts["steps"] == counts["last"]:
            raise Killed
        counts["steps"] += 1
        return original(*args)

    monkeypatch.setattr(Classifier, "step", step)
    return counts


class Killed(Exception):
    pass


def test_every_backbone_learns_from_every_share_and_stays_as_it_is(sets, tmp_path, counted):
    backbones = {"online": make_backbone(), "momentum": make_backbone()}
    before = copy.deepcopy(backbones["online"].state_dict())
    progress = Listening()
    results = evaluated(sets, tmp_path / "state", progress=progress, **backbones)
    keys = [(name, f"finetune_{share}%") for name in backbones for share in (50, 100)]
    assert list(results) == keys
    assert counted["steps"] == 2 * STEPS
    for name, value in backbones["online"].state_dict().items():
        assert value.equal(before[name])
    assert results["online", "finetune_50%"] == results["momentum", "finetune_50%"]
    result = results["online", "finetune_100%"]
    assert result["top1"] > 0.9
    assert result["interval"][0] < result["top1"] <= result["interval"][1]
    by_rate = result["held_out_top1_by_learning_rate"]
    assert list(by_rate) == ["0.01", "0.5"]
    assert result["held_out_top1"] == by_rate[str(result["learning_rate"])] == max(by_rate.values())
    assert (result["share"], result["training_images"], result["held_out_images"]) == (1, 60, 12)
    assert (result["epochs"], result["batch"], result["momentum"], result["flip"]) == (2, 8, 0.9, 0.5)
    assert results["online", "finetune_50%"]["training_images"] == 30
    trainings = [(name, total) for name, total, _ in progress.tasks if "images" not in name]
    assert trainings[:4] == [
        ("finetune online 50% rate 0.01", 2 * EPOCH[0.5]),
        ("finetune online 50% rate 0.5", 2 * EPOCH[0.5]),
        ("finetune online 100% rate 0.01", 2 * EPOCH[1.0]),
        ("finetune online 100% rate 0.5", 2 * EPOCH[1.0]),
    ]
    assert "A value of --finetune-rates beyond it may be better" in progress.said[0]
    assert not (tmp_path / "state").exists()


def watched(monkeypatch):
    """Weights, buffers and momenta of each network that is trained from now on."""
    ends = []
    original = Classifier.__init__

    def init(self, *args):
        original(self, *args)
        ends.append(self.tensors)

    monkeypatch.setattr(Classifier, "__init__", init)
    return ends


@pytest.mark.parametrize(
    ("died", "kept"),
    [
        (2, 0),  # in the first epoch of all
        (4, EPOCH[0.5]),  # in the second epoch of the first rate
        (2 * EPOCH[0.5], 2 * EPOCH[0.5]),  # between two rates
        (4 * EPOCH[0.5] + EPOCH[1.0] + 1, 4 * EPOCH[0.5] + EPOCH[1.0]),  # in the second share
    ],
)
def test_a_killed_training_ends_like_one_that_was_not(sets, tmp_path, counted, monkeypatch, died, kept):
    ends = watched(monkeypatch)
    whole = evaluated(sets, tmp_path / "whole")
    not_killed = [*ends]
    counted |= {"steps": 0, "last": died}
    with pytest.raises(Killed):
        evaluated(sets, tmp_path / "state")
    ends.clear()
    counted |= {"steps": 0, "last": -1}
    assert evaluated(sets, tmp_path / "state") == whole
    assert counted["steps"] == STEPS - kept
    # the one that was killed and all after it
    for resumed, straight in zip(ends, not_killed[-len(ends) :], strict=True):
        for name, value in resumed.items():
            assert value.equal(straight[name]), name


def test_a_share_is_that_of_low_shot_and_its_held_out_images_are_not_learned_from(
    sets, tmp_path, monkeypatch
):
    seen = []
    subset = ShardSet.subset
    monkeypatch.setattr(ShardSet, "subset", lambda self, ids: seen.append(set(ids)) or subset(self, ids))
    evaluated(sets, tmp_path / "state", SHORT.model_copy(update={"learning_rates": (0.1,), "epochs": 1}))
    train = ShardSet.open(sets[0])
    for share, learned, held_out in zip(SHORT.shares, seen[::2], seen[1::2], strict=True):
        assert not learned & held_out
        mask = low_shot_subset(train.index["label"].astype(int), share, 0, classes=train.classes)
        assert learned | held_out == set(mask.nonzero()[0])


def ranks_evaluated(sets, state):
    with pytest.MonkeyPatch.context() as patch:
        ends = watched(patch)
        return evaluated(sets, state, SHORT.model_copy(update={"shares": (0.5,)})), ends


def test_two_ranks_find_what_one_does(run_ranks, sets, tmp_path):
    results, networks = ranks_evaluated(sets, tmp_path / "state")
    for found, others in run_ranks(ranks_evaluated, 2, sets, tmp_path / "state"):
        assert found == results
        for one, other in zip(networks, others, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def test_a_training_that_diverges_is_right_nowhere_and_not_chosen(sets, tmp_path):
    wild = SHORT.model_copy(update={"shares": (1.0,), "learning_rates": (0.1, 1e30)})
    result = evaluated(sets, tmp_path / "state", wild)["online", "finetune_100%"]
    assert result["learning_rate"] == 0.1
    assert result["held_out_top1_by_learning_rate"]["1e+30"] == 0


def test_a_backbone_whose_features_are_not_finite_is_refused(sets, tmp_path):
    broken = make_backbone()
    nn.init.constant_(broken[1].bias, math.nan)
    with pytest.raises(UserError, match="not finite"):
        evaluated(sets, tmp_path / "state", online=broken)
