"""Puts back what the forward and backward passes of a step move before its update.

A rank that loses another one in the middle of a step then holds the state after its last finished step again.
"""

import torch
from torch import Tensor

from trainer.engine.divergence_guard import BatchStatistics
from trainer.methods import Method


class StepUndo:
    """Keeps what a step moves before its update: batch statistics, queue and further buffers of a method.

    Weights, optimizer and EMA encoders change only in the update, which begins after the last message of a step.

    Args:
        method: the method that trains.
        statistics: the running statistics of its batch norms.
    """

    def __init__(self, method: Method, statistics: BatchStatistics) -> None:
        self._queue, self._statistics = method.queue, statistics
        kept = {id(buffer) for buffer in statistics.buffers()}
        if method.queue is not None:
            kept |= {id(buffer) for buffer in method.queue.buffers()}
        self._method = method
        self._names = [name for name, buffer in method.named_buffers() if id(buffer) not in kept]
        self._before = [buffer.clone() for buffer in self._others()]
        self._begun = False

    @torch.no_grad()
    def begin(self) -> None:
        """Keep the state before a step."""
        self._begun = True
        self._statistics.keep()
        if self._queue is not None:
            self._queue.forget_overwritten()
        if self._names:
            torch._foreach_copy_(self._before, self._others())

    def finish(self) -> None:
        """Forget what `begin` kept, because the step is finished."""
        self._begun = False

    @torch.no_grad()
    def undo(self) -> None:
        """Put back what `begin` kept, if a step has begun and is not finished."""
        if not self._begun:
            return
        self._begun = False
        self._statistics.put_back()
        if self._queue is not None:
            self._queue.undo()
        if self._names:
            torch._foreach_copy_(self._others(), self._before)

    def _others(self) -> list[Tensor]:
        """Return the buffers that are neither in a batch norm nor in the queue."""
        return [self._method.get_buffer(name) for name in self._names]
