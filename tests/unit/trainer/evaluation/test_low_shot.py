import statistics

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from data_pipelines.errors import UserError
from data_pipelines.shards.subsets import low_shot_subset
from trainer.distributed.collectives import rank, world_size
from trainer.evaluation.evaluators import Evaluators, require_enough
from trainer.evaluation.features import OneBackbone, gather_features
from trainer.evaluation.finetune import FinetuneProtocol
from trainer.evaluation.linear_fast import linear_probe
from trainer.evaluation.linear_protocol import LinearProtocol
from trainer.evaluation.low_shot import low_shot

pytestmark = pytest.mark.slow

CLASSES = [str(n) for n in range(10)]


@pytest.fixture(scope="module")
def digits():
    features, labels = load_digits(return_X_y=True)
    features, labels = torch.from_numpy(features).float(), torch.from_numpy(labels)
    train = features[:600], labels[:600], torch.arange(600)
    return train, (features[600:], labels[600:]), labels[:600].numpy()


def test_the_result_is_that_of_the_probes_on_its_subsets(digits):
    train, test, index = digits
    found = low_shot(*train, *test, share=0.05, seeds=range(3), index_labels=index, classes=CLASSES)
    alone = []
    for seed in range(3):
        rows = np.flatnonzero(low_shot_subset(index, 0.05, seed, classes=CLASSES))
        probe = linear_probe(train[0][rows], train[1][rows], *test, num_classes=10, seed=seed)
        alone.append(probe.top1)
        assert found.training_images == len(rows) == 30
    assert [subset["top1"] for subset in found.subsets] == alone
    assert found.top1 == pytest.approx(statistics.mean(alone))
    assert found.top1_std == pytest.approx(float(np.std(alone, ddof=1)))
    assert found.top1_std > 0
    assert found.top1 < linear_probe(*train[:2], *test, num_classes=10, seed=0).top1


def test_a_sample_that_cannot_be_read_is_missing_and_changes_no_other(digits):
    (features, labels, ids), test, index = digits
    chosen = np.flatnonzero(low_shot_subset(index, 0.1, 0, classes=CLASSES))
    other = np.setdiff1d(np.arange(600), chosen)[0]
    keep = torch.arange(600) != other
    options = {"share": 0.1, "seeds": [0, 0], "index_labels": index, "classes": CLASSES}
    whole = low_shot(features, labels, ids, *test, **options)
    assert low_shot(features[keep], labels[keep], ids[keep], *test, **options) == whole


def ranks_gather(count):
    """Rank r made the features of samples r, r + world, …; sample n has features n and n + 1/2."""
    ids = torch.tensor(range(rank(), count, world_size()), dtype=torch.int64)
    return gather_features(OneBackbone(torch.stack([ids, ids + 0.5], 1), ids % 3, ids))


@pytest.mark.parametrize("count", [1, 8, 11])
def test_gathered_features_are_in_the_set_s_order(run_ranks, count):
    ids = torch.arange(count)
    for rows, labels, own in run_ranks(ranks_gather, 3, count):
        assert own.equal(ids)
        assert labels.equal(ids % 3)
        assert rows.equal(torch.stack([ids, ids + 0.5], 1))


@pytest.mark.parametrize(
    ("evaluators", "message"),
    [
        (Evaluators(knn=(5, 601)), "600 labeled images"),
        (Evaluators(low_shot=(0.5, 0.001)), "leave no image of the class"),
        (
            Evaluators(linear=LinearProtocol(batch=481, held_out=0.2)),
            "--batch: 481 images are more than the 480 .*\\n.*--batch 480 or less",
        ),
        (
            Evaluators(finetune=FinetuneProtocol(shares=(0.5,), batch=1)),
            "--batch: batch norms cannot be trained on one",
        ),
        (
            Evaluators(finetune=FinetuneProtocol(shares=(0.5, 0.001), batch=8)),
            "--finetune: .* leave no image of the class",
        ),
        (
            Evaluators(finetune=FinetuneProtocol(shares=(0.1, 1.0), batch=51, held_out=0.2)),
            "--batch: 51 images are more than the 50 .* in 10 % of the training set\\n.*--batch 50 or less",
        ),
    ],
)
def test_a_set_that_is_too_small_is_refused_before_its_features_are_made(digits, evaluators, message):
    with pytest.raises(UserError, match=message):
        require_enough(evaluators, digits[2], CLASSES)


def ranks_refuse(labels, batch):
    protocol = LinearProtocol(batch=batch)
    try:
        require_enough(Evaluators(linear=protocol), labels, CLASSES)
    except UserError as error:
        return str(error)
    return ""


def test_a_batch_that_ranks_cannot_share_evenly_is_refused_before_features_are_made(run_ranks, digits):
    message = "--batch: 5 images cannot be split evenly over 2 processes\n  fix: use --batch 4 or 6"
    assert run_ranks(ranks_refuse, 2, digits[2], 5) == [message] * 2
    assert run_ranks(ranks_refuse, 2, digits[2], 6) == [""] * 2
