"""The exchange of host memory with neighbors: each rank sends its own to one rank, and receives that of another one.

The exchange has a group of its own, so that no message of a step waits behind it, and runs in a thread. If a rank ends
in the middle of a large message, gloo may wait for the rest for ever (torch 2.14). It closes the connection, though,
and this is what the waiting thread looks for.
"""

import threading

import torch.distributed as dist
from torch import Tensor

from trainer.distributed.collectives import rank, world_size
from trainer.distributed.lost_peer import Connections, LostPeer

_LOOK_SECONDS = 0.05
"""Time between two looks at the connections."""


def neighbor_distance(world_size: int, local_world_size: int) -> int:
    """Return how much higher the number of the rank is that keeps a rank's memory, modulo the number of ranks.

    It is on another node if there is one. Ranks are numbered node by node, with the same number on each node.

    Args:
        world_size: number of ranks.
        local_world_size: number of ranks on each node.
    """
    return local_world_size if local_world_size < world_size else 1


class Exchange:
    """An exchange that has begun.

    Args:
        work: receives the neighbor's memory.
        connections: those of the exchange.
    """

    def __init__(self, work: dist.Work, connections: Connections) -> None:
        self._work, self._connections = work, connections
        self._over, self._error = threading.Event(), list[RuntimeError]()
        threading.Thread(target=self._receive, name="shard of a neighbor", daemon=True).start()

    def wait(self) -> None:
        """Wait until the neighbor's memory is here.

        Raises:
            RuntimeError: a rank is lost (`is_lost_peer`).
        """
        while not self._over.wait(_LOOK_SECONDS):
            if not self._connections.all_open() and not self._over.wait(_LOOK_SECONDS):
                raise LostPeer(
                    "Connection closed by peer: a rank has ended while ranks exchanged their shards"
                )
        if self._error:
            raise self._error[0]

    def has_come(self, seconds: float) -> bool:
        """Return whether the neighbor's memory is here, after a wait that is not longer than some seconds. Other ranks
        may be lost."""
        return self._over.wait(seconds) and not self._error

    def _receive(self) -> None:
        try:
            self._work.wait()
        except RuntimeError as error:
            self._error.append(error)
        self._over.set()


class NeighborExchange:
    """Exchanges host memory between neighbors. Every rank makes one at the same time, and calls `begin` at the same
    time.

    Args:
        distance: what `neighbor_distance` returned.
    """

    def __init__(self, distance: int) -> None:
        before = Connections.of_this_process()
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup)  # every rank is a member
        self._group = group
        self._connections = Connections.of_this_process() - before
        self._keeper = (rank() + distance) % world_size()
        self.ward = (rank() - distance) % world_size()
        """The rank whose memory this rank receives."""
        self._sent: dist.Work | None = None
        """The newest sending. gloo gives it up if nothing holds it. Nothing waits for its end, because it has ended
        once the keeper has waited for its own exchange."""

    def begin(self, own: Tensor, received: Tensor) -> Exchange:
        """Begin to send memory to the rank that keeps it, and to receive that of another rank.

        All ranks have waited for the exchange before this one.

        Args:
            own: [bytes] uint8 in host memory, of the same size on every rank. It must not change until the keeper has
                received it.
            received: the same, for the other rank's memory.

        Raises:
            RuntimeError: a rank is lost (`is_lost_peer`).
        """
        self._sent = dist.isend(own, self._keeper, group=self._group)
        work = dist.irecv(received, self.ward, group=self._group)
        assert work is not None
        return Exchange(work, self._connections)
