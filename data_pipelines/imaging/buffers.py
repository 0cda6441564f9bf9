"""Reuse of batch memory.

A fresh 40 MB batch costs the kernel as much time to provide, page by page, as its crops cost to compute.
"""

import weakref
from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray

_MAX_FREE = 8


class Buffers:
    """Lends float32 tensors on the CPU.

    The memory of a tensor is reused when its last reference is gone, including views and tensors saved by autograd.
    """

    def __init__(self) -> None:
        self._free: defaultdict[tuple[int, ...], list[NDArray[np.float32]]] = defaultdict(list)

    def take(self, *shape: int) -> torch.Tensor:
        """Return an uninitialized contiguous tensor `[*shape]`."""
        free = self._free[shape]
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(shape, np.float32)
        # The tensor keeps this array alive, not `memory` itself. When the array is freed, the memory can be reused.
        loan = memory.view()
        weakref.finalize(loan, _give_back, free, memory).atexit = False
        return torch.from_numpy(loan)


def _give_back(free: list[NDArray[np.float32]], memory: NDArray[np.float32]) -> None:
    if len(free) < _MAX_FREE:
        free.append(memory)
