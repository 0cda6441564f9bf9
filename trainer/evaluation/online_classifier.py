"""Accuracy of the online classifier, which trains beside the backbone on its detached features.

That is the quantity that All4One's authors publish as linear evaluation (Estepa et al. 2023, table 1), and solo-learn
for all its methods: the classifier's accuracy on validation images, resized and cropped at the center.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data_pipelines.errors import UserError
from trainer.distributed.collectives import all_reduce_sum
from trainer.evaluation.measures.accuracy import count_right, shares_right
from trainer.evaluation.measures.calibration import BINS, calibration_error, calibration_sums

ROWS = 8192
"""Rows of one product with the classifier's weights. ImageNet's logits of all rows at once would need 200 MB."""


@dataclass(frozen=True)
class OnlineResult:
    """What the classifier makes of the labeled validation images. Accuracies are fractions, in [0, 1]."""

    top1: float
    top5: float
    calibration_error: float
    """Expected calibration error of its probabilities, in [0, 1]."""


@torch.no_grad()
def online_accuracy(classifier: nn.Linear, features: Tensor, labels: Tensor) -> OnlineResult:
    """Return the accuracy over the images of all ranks. Every rank calls with its own part, of any size.

    Args:
        classifier: features `[b, F]` -> logits `[b, C]`.
        features: `[n, F]` of the online backbone, on the device of the classifier.
        labels: `[n]` int64, -1 if unlabeled. Those are skipped.

    Raises:
        UserError: on all ranks, if no image has a label.
    """
    known = labels >= 0
    features, labels = features[known].to(classifier.weight.dtype), labels[known]
    if not int(all_reduce_sum(torch.tensor(len(labels)))):
        raise UserError(
            "no readable image of the validation set has a label",
            where="data.validation",
            fix="check the set with: all4one data verify",
        )
    right = torch.zeros(1, 2, dtype=torch.int64, device=features.device)
    sums = torch.zeros(3, BINS, dtype=torch.float64, device=features.device)
    for rows, theirs in zip(features.split(ROWS), labels.split(ROWS), strict=True):
        logits = classifier(rows)  # [b, C]
        right += count_right(logits[:, None], theirs)
        sums += calibration_sums(logits, theirs)
    ((top1, top5),) = shares_right(right, len(labels))
    return OnlineResult(top1, top5, calibration_error(sums))
