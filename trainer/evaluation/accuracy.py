"""Top-1 and top-5 of logits, on samples that are shared among the ranks."""

import torch
from torch import Tensor

from trainer.distributed.collectives import all_reduce_sum


def count_right(logits: Tensor, labels: Tensor) -> Tensor:
    """How many samples each of L classifiers gets right, by its first and by its first five classes: `[L, 2]` int64.

    Of classes with the same logit the one that is numbered lower comes first, so that a classifier that cannot tell
    classes apart is right for one of them. Logits that are not finite, of one that has diverged, are right nowhere.

    Args:
        logits: `[b, L, C]`.
        labels: `[b]`, none of them -1.
    """
    own = logits.gather(2, labels[:, None, None].expand(-1, logits.shape[1], 1))  # [b, L, 1]
    lower = torch.arange(logits.shape[2], device=logits.device) < labels[:, None]  # [b, C]
    # not `logits > own`: nothing is above NaN
    before = ~(logits <= own) | ((logits == own) & lower[:, None])  # [b, L, C]
    place = before.sum(2).masked_fill(~own.squeeze(2).isfinite(), 5)  # [b, L]
    return torch.stack([(place < 1).sum(0), (place < 5).sum(0)], dim=1)


def shares_right(right: Tensor, samples: int) -> list[tuple[float, float]]:
    """Top-1 and top-5 of each classifier in the samples of all ranks together.

    Args:
        right: `[L, 2]` of this rank, as `count_right` gives.
        samples: of this rank that have a label.
    """
    total = int(all_reduce_sum(torch.tensor(samples)))
    shares = (all_reduce_sum(right).double() / total).tolist()
    return [(top1, top5) for top1, top5 in shares]
