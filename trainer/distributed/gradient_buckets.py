"""Averages gradients over the ranks during the backward pass.

DeepSpeed's stage 0 begins only after the backward pass, and then flattens all gradients at once. Here gradients are
sent in buckets. Each bucket is sent as soon as its last gradient is there (Li et al. 2020, arXiv 2006.15704).
"""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.distributed.collectives import world_size

BUCKET = 2**23
"""Number of elements in a bucket. A larger parameter has its own bucket."""


class GradientBuckets:
    """Averages the gradients of parameters by hooks. Every rank must have the same parameters in the same order, and
    the same parameters must get gradients on every rank.

    Args:
        parameters: in the order in which the forward pass uses them, already on their device and in their memory
            format.
        dtype: type in which gradients are summed.
        due: returns whether the running backward pass is the last one before the update.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], dtype: torch.dtype, due: Callable[[], bool]
    ) -> None:
        self._due = due
        self._buckets = [_Bucket(group, dtype) for group in _grouped(parameters)]
        self._next = 0  # every rank sends the buckets in this order, whichever is full first
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(self._hook_of(bucket))

    def _hook_of(self, bucket: "_Bucket") -> Callable[[Tensor], None]:
        def arrived(_: Tensor) -> None:
            if self._due():
                bucket.missing -= 1
                self._send_full()

        return arrived

    def _send_full(self) -> None:
        while self._next < len(self._buckets) and self._buckets[self._next].missing == 0:
            self._buckets[self._next].send()
            self._next += 1

    def finish(self) -> None:
        """Wait until every parameter's `grad` is the average. Every rank calls this once after the last backward
        pass."""
        for bucket in self._buckets[self._next :]:
            bucket.send()
        for bucket in self._buckets:
            bucket.receive()
        self._next = 0


class _Bucket:
    """Parameters whose gradients are sent in one message."""

    def __init__(self, parameters: list[nn.Parameter], dtype: torch.dtype) -> None:
        self.parameters = parameters
        self.missing = len(parameters)
        self._flat = torch.empty(sum(p.numel() for p in parameters), dtype=dtype, device=parameters[0].device)
        self._views = self._split(self._flat)
        self._in_place = dtype == parameters[0].dtype
        self._work: dist.Work | None = None

    @torch.no_grad()
    def send(self) -> None:
        """Begin to sum. If this rank's loss does not depend on a parameter, its gradient is zero."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        torch._foreach_copy_(self._views, gradients)
        self._work = dist.all_reduce(self._flat, async_op=True)
        if self._in_place:
            for parameter, view in zip(self.parameters, self._views, strict=True):
                parameter.grad = view

    @torch.no_grad()
    def receive(self) -> None:
        """Wait for the sum and turn it into the average."""
        assert self._work is not None
        self._work.wait()
        self._work, self.missing = None, len(self.parameters)
        total = self._flat
        if not self._in_place:
            total = total.to(self.parameters[0].dtype)
            for parameter, view in zip(self.parameters, self._split(total), strict=True):
                parameter.grad = view
        total.div_(world_size())

    def _split(self, flat: Tensor) -> list[Tensor]:
        """Return the part of each parameter in a flat tensor, in the parameter's shape and memory format."""
        parts = flat.split([p.numel() for p in self.parameters])
        return [part.as_strided(p.shape, p.stride()) for part, p in zip(parts, self.parameters, strict=True)]


def _grouped(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Group the parameters into buckets. The last parameters come first, because their gradients are ready first."""
    groups: list[list[nn.Parameter]] = []
    size = BUCKET
    for parameter in reversed(parameters):
        if size + parameter.numel() > BUCKET:
            groups.append([])
            size = 0
        groups[-1].append(parameter)
        size += parameter.numel()
    return groups
