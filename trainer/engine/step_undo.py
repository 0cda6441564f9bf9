"""Puts back what a step moves besides weights, optimizer and EMA encoders.

A rank that loses another one in the middle of a step then holds the state after its last finished step again.
"""

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.engine.batch_statistics import BatchStatistics
from trainer.engine.divergence_guard import Guard
from trainer.methods import Method


class _Kept(NamedTuple):
    """What a step found."""

    guard: Tensor
    others: list[Tensor]


class StepUndo:
    """Keeps what the last steps move: batch statistics, queue, further buffers of a method, and the guard's state.

    Weights, optimizer and EMA encoders change only in the update, which begins after the last message of a step.

    Args:
        method: the method that trains.
        statistics: the running statistics of its batch norms. They keep as many steps.
        guard: checks the gradient of each step.
        steps: number of steps that can be undone.
    """

    def __init__(self, method: Method, statistics: BatchStatistics, guard: Guard, steps: int) -> None:
        self._queue, self._statistics, self._guard = method.queue, statistics, guard
        kept = {id(buffer) for buffer in statistics.buffers()}
        if method.queue is not None:
            kept |= {id(buffer) for buffer in method.queue.buffers()}
        self._method, self._steps = method, steps
        self._names = [name for name, buffer in method.named_buffers() if id(buffer) not in kept]
        saved = method.state_dict().keys()
        self._moving = [index for index, name in enumerate(self._names) if name in saved]
        self._kept = deque[_Kept](maxlen=steps)
        self._begun = False

    @torch.no_grad()
    def begin(self) -> None:
        """Keep the state before a step."""
        self._begun = True
        self._statistics.keep()
        if self._queue is not None:
            self._queue.begin_step(self._steps)
        self._kept.append(_Kept(self._guard.state, [buffer.clone() for buffer in self._others()]))

    @torch.no_grad()
    def restore(self, when: Tensor) -> None:
        """Put back the further buffers that a checkpoint holds if `when` ([]) is not 0, because the step is skipped.

        Batch statistics have their own `restore`. The queue takes no broken keys.
        """
        if self._moving:
            skipped, current, kept = when > 0, self._others(), self._kept[-1].others
            for index in self._moving:
                torch.where(skipped, kept[index], current[index], out=current[index])

    def finish(self) -> None:
        """Note that the step has ended."""
        self._begun = False

    def forget(self) -> None:
        """Forget all steps, because another state was loaded."""
        self._begun = False
        self._kept.clear()

    @torch.no_grad()
    def undo(self, ended: int = 0) -> bool:
        """Put back what a step has moved that has begun and has not ended, and what the steps before it have moved.

        Args:
            ended: number of steps before it that are undone too. The device has left out their updates.

        Returns whether so many steps can be undone. If not, nothing is put back.
        """
        steps = ended + self._begun
        if steps > len(self._kept):
            return False
        self._begun = False
        for _ in range(steps):
            kept = self._kept.pop()
            self._guard.state = kept.guard
            if self._queue is not None:
                self._queue.undo_step()
            if self._names:
                torch._foreach_copy_(self._others(), kept.others)
        self._statistics.put_back(steps)
        return True

    def _others(self) -> list[Tensor]:
        """Return the buffers that are neither in a batch norm nor in the queue."""
        return [self._method.get_buffer(name) for name in self._names]
