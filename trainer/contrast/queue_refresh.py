"""Old rows of the queue follow the momentum encoder, without a forward pass of their images.

A row is the key of an image by an older encoder. The encoder has moved since then, so the row becomes stale with its
age. A new key of its image would cost a forward pass. The rule here uses keys that are there anyway: a row that is the
nearest neighbor of new keys moves toward their mean. These keys come from the newest encoder and from images that
resemble the row's own. Rows that no key finds do not matter for the loss, and stay as they are. The further the keys
disagree, the shorter is their mean, and the less the row moves.

The rule is not published. It is the update of centroids in online k-means (MacQueen 1967) with a constant rate, on the
sphere.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_UNIT = 2.0**40
"""Fixed-point numbers count units of 1 / _UNIT. Components of float32 keys are exact from 2^-16 on. Up to 2^22 keys can
be added."""


def refreshed(rows: Tensor, keys: Tensor, hits: Tensor, usable: Tensor, fraction: float) -> Tensor:
    """Return what becomes of the rows that were hit, one for each hit: [B, D], normalized.

    A row q whose hits have the mean key m becomes (1 - fraction) q + fraction m, normalized. The result is the same for
    all hits of a row. It does not depend on the order of the hits, bit for bit, so all ranks get the same. The host
    does not wait for the device.

    Args:
        rows: the normalized rows of the queue, [N, D].
        keys: normalized keys, [B, D].
        hits: positions of the nearest rows of the keys, [B] int64. Several keys may hit one row.
        usable: which keys count, [B] bool. A row without any such key stays as it is.
        fraction: from 0 to 1.
    """
    old, owner = rows[hits], _one_hit_of_each_row(hits, len(rows))
    # Sums of floats depend on the order of the terms, which is random on a CUDA device. Sums of integers do not.
    counted = torch.cat([torch.where(usable[:, None], keys, 0.0) * _UNIT, usable[:, None].to(keys.dtype)], 1)
    fixed = counted.round().to(torch.int64)
    sums = torch.zeros_like(fixed).index_add_(0, owner, fixed)[owner]
    count = sums[:, -1:]
    mean = sums[:, :-1].to(keys.dtype) / (count.clamp_min(1) * _UNIT)
    return torch.where(count > 0, F.normalize(torch.lerp(old, mean, fraction), dim=1), old)


def _one_hit_of_each_row(hits: Tensor, size: int) -> Tensor:
    """Return for each hit the number of one hit of the same row, [B]. Any of them will do."""
    numbers = torch.arange(len(hits), device=hits.device)
    of_row = hits.new_zeros(size)
    of_row[hits] = numbers
    return of_row[hits]
