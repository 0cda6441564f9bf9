"""Means of scalars over the ranks, for the record of a step."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.distributed.collectives import world_size
from trainer.methods.base import LABEL_METRICS


class PendingMeans:
    """The means of scalars over all ranks, whose one message is under way. Every rank begins with the same names.

    The mean of a value in `LABEL_METRICS` is taken over the ranks that have the value.

    Args:
        values: scalars [] of this rank on one device.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self._names = list(values)
        packed = torch.stack([v.detach().double() for v in values.values()])  # [values]
        optional = torch.tensor([name in LABEL_METRICS for name in values], device=packed.device)
        counted = ~(packed.isnan() & optional)
        self._sums = torch.stack([packed.where(counted, 0), counted.double()])  # [2, values]
        self._work = dist.all_reduce(self._sums, async_op=True) if world_size() > 1 else None

    def result(self) -> dict[str, Tensor]:
        """Wait for the message, and return the mean [] of each value in float64."""
        if self._work is not None:
            self._work.wait()
        return dict(zip(self._names, (self._sums[0] / self._sums[1]).unbind(), strict=True))


def mean_over_ranks(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the mean of each scalar over all ranks, as `PendingMeans` does."""
    return {name: float(mean) for name, mean in PendingMeans(values).result().items()}
