"""Tells the device that another rank is lost, so that nothing computed from its missing messages changes the state.

The host runs ahead of a CUDA device. When NCCL's communicators are aborted, messages that were waiting for the lost
rank end without an error, and the device goes on with what their buffers happen to hold, up to the update of weights.
The flag is set before the abort. The device reads it after the last message of each step, and then keeps its weights.
"""

import torch
from torch import Tensor

from trainer.distributed.lost_peer import LostPeer


class LossFlag:
    """Whether another rank is lost, as the device sees it. Any thread may set it, and it is never taken back.

    Args:
        device: the device of this rank.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # The device copies from pinned memory only when it gets there, so it sees what the host has set meanwhile.
        self._host = torch.zeros(1, pin_memory=device.type == "cuda")
        self.is_set = False
        """Whether the flag is set, as the host sees it."""

    def set(self) -> None:
        """Set the flag. Abort communicators only after this call."""
        self.is_set = True
        self._host.fill_(1.0)

    def read(self) -> Tensor:
        """Return 1.0 ([], on the device) if the flag is set when the device gets here, otherwise 0.0. Never waits."""
        return torch.empty(1, device=self._device).copy_(self._host, non_blocking=True)[0]

    def refuse(self) -> None:
        """Raise a LostPeer if the flag is set. Call it before the host uses or writes what the device computed."""
        if self.is_set:
            raise LostPeer("another rank is lost")
