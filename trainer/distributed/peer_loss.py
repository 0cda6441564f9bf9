"""Ends all waits of a rank for another one that is lost."""

import threading

import torch
import torch.distributed as dist

from trainer.distributed.loss_flag import LossFlag
from trainer.distributed.lost_peer import Connections


class PeerLoss:
    """What a rank does once another one is lost. Any thread may declare the loss, and the first one acts.

    Args:
        flag: tells the device.
        connections: gloo's connections to the other ranks.
    """

    def __init__(self, flag: LossFlag, connections: Connections) -> None:
        self._flag, self._connections, self._lock = flag, connections, threading.Lock()
        self._is_declared = False

    def declare(self) -> None:
        """End all waits for messages, of the host and of the device. Returns once they have ended."""
        with self._lock:
            if self._is_declared:
                return
            self._is_declared = True
            self._flag.set()  # first, because the device goes on as soon as its messages are aborted
            self._connections.shut_down()
            _abort_nccl()


def _abort_nccl() -> None:
    """Abort NCCL's communicators. Messages that wait on the device then end without an error, and those that begin
    later raise one."""
    if dist.is_initialized() and torch.cuda.is_initialized():
        # Experimental in torch 2.14. It aborts those of all groups together: one by one they could wait for each other.
        dist.distributed_c10d._abort_process_group()
