"""The running statistics of batch norms: one network on all ranks, which a skipped or lost step leaves as it was."""

from collections import deque
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.distributed.batch_norm import spans_all_ranks
from trainer.distributed.collectives import world_size


class BatchStatistics:
    """The running statistics of all batch norms in a module. They are restored after a skipped step.

    Batch norms that do not span all ranks see other rows on each of them. Their running statistics are averaged over
    the ranks in every step. Every rank then holds the same network: the one that is evaluated, and that any rank can
    save.

    All statistics are moved into one tensor, all counts of batches into another, and each batch norm keeps views of its
    parts. One operation then copies all of them.

    Args:
        module: contains the batch norms.
        steps: number of steps that can be undone.
    """

    def __init__(self, module: nn.Module, steps: int = 1) -> None:
        norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self._statistics = _joined(norms, "running_mean", "running_var")
        self._counts = _joined(norms, "num_batches_tracked")
        self._moving = [t for t in (self._statistics, self._counts) if t is not None]
        self._kept = deque([t.clone() for t in self._moving] for _ in range(steps))  # the last step first
        self._buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self._differ = not all(map(spans_all_ranks, norms))

    def buffers(self) -> Sequence[Tensor]:
        """Return all buffers of the batch norms."""
        return self._buffers

    def keep(self) -> None:
        """Save the statistics and the counts before a step."""
        self._kept.rotate(1)
        for kept, current in zip(self._kept[0], self._moving, strict=True):
            kept.copy_(current)

    def start_mean(self) -> dist.Work | None:
        """Begin to average the statistics over the ranks, after the last forward pass of a step. None: they are equal.

        Every rank calls, and calls `finish_mean` with the result before it uses them.
        """
        if self._statistics is None or not self._differ:
            return None
        self._statistics.div_(world_size())
        return dist.all_reduce(self._statistics, async_op=True)

    def finish_mean(self, message: dist.Work | None) -> None:
        """Wait until the statistics are averaged."""
        if message is not None:
            message.wait()

    def restore(self, when: Tensor) -> None:
        """Restore the statistics that `keep` saved if `when` ([]) is not 0. The batches of a skipped step count."""
        if self._statistics is not None:
            torch.where(when > 0, self._kept[0][0], self._statistics, out=self._statistics)

    def put_back(self, steps: int) -> None:
        """Restore the statistics and the counts from before the last steps. Each of them has called `keep`."""
        if steps:
            for kept, current in zip(self._kept[steps - 1], self._moving, strict=True):
                current.copy_(kept)
            self._kept.rotate(-steps)


def _joined(modules: Sequence[nn.Module], *names: str) -> Tensor | None:
    """Move buffers of these names into one tensor, of which each module keeps a view. None: there are no such
    buffers."""
    places = [(m, name) for m in modules for name in names if m._buffers.get(name) is not None]
    buffers = [m.get_buffer(name) for m, name in places]
    if not buffers:
        return None
    joined = torch.cat([t.flatten() for t in buffers])
    parts = joined.split([t.numel() for t in buffers])
    for (module, name), buffer, part in zip(places, buffers, parts, strict=True):
        module.register_buffer(name, part.view(buffer.shape))
    return joined
