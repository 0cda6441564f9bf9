"""Top-1 and top-5 accuracy from logits, over samples that are distributed over the ranks."""

import torch
from torch import Tensor

from trainer.distributed.collectives import all_reduce_sum


def count_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Count the correct samples of each of L classifiers, in top-1 and in top-5: `[L, 2]` int64.

    If classes have the same logit, the lower class comes first, so a classifier that cannot tell classes apart is
    correct for one of them. A classifier that has diverged, with logits that are not finite, is never correct.

    Args:
        logits: `[b, L, C]`.
        labels: `[b]`, none of them -1.
    """
    own = logits.gather(2, labels[:, None, None].expand(-1, logits.shape[1], 1))  # [b, L, 1]
    lower = torch.arange(logits.shape[2], device=logits.device) < labels[:, None]  # [b, C]
    # not `logits > own`, because no comparison with NaN is true
    before = ~(logits <= own) | ((logits == own) & lower[:, None])  # [b, L, C]
    place = before.sum(2).masked_fill(~own.squeeze(2).isfinite(), 5)  # [b, L]
    return torch.stack([(place < 1).sum(0), (place < 5).sum(0)], dim=1)


def shares_right(right: Tensor, samples: int) -> list[tuple[float, float]]:
    """Return top-1 and top-5 accuracy of each classifier over the samples of all ranks.

    Args:
        right: `[L, 2]` of this rank, from `count_right`.
        samples: number of this rank's samples that have a label.
    """
    total = int(all_reduce_sum(torch.tensor(samples)))
    shares = (all_reduce_sum(right).double() / total).tolist()
    return [(top1, top5) for top1, top5 in shares]
