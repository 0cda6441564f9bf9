"""Expected calibration error: how far a classifier's confidence is from its accuracy (Guo et al., ICML 2017, eq. 3)."""

import torch
from torch import Tensor

from trainer.distributed.collectives import all_reduce_sum

BINS = 15
"""Number of bins of equal width (Guo et al., section 4)."""


def calibration_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Return, for each bin of confidence, the samples, their confidences and the correct ones, summed: `[3, BINS]`.

    The confidence is the probability of the most likely class. Bin b holds confidences in (b / BINS, (b + 1) / BINS].

    Args:
        logits: `[b, C]`.
        labels: `[b]`, none of them -1.
    """
    confidence, predicted = logits.double().softmax(1).max(1)  # [b]
    place = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    values = torch.stack([torch.ones_like(confidence), confidence, (predicted == labels).double()])  # [3, b]
    return values.new_zeros(3, BINS).index_add_(1, place, values)


def calibration_error(sums: Tensor) -> float:
    """Return the expected calibration error, in [0, 1], over the samples of all ranks.

    Args:
        sums: `[3, BINS]` of this rank's samples, added up over the calls of `calibration_sums`.
    """
    samples, confidence, right = all_reduce_sum(sums)
    return float((right - confidence).abs().sum() / samples.sum())
