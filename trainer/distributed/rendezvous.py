"""Where the ranks of a process group meet.

- Ranks that `launch` started meet at a socket of the loopback address, which their launcher has opened. The store that
  torch opens by itself listens on all network interfaces, and its port may be taken before it does.
- Ranks of a SLURM job meet at a store of the first node.
- Ranks of another launcher meet where its environment says.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

STORE_SOCKET = "ALL4ONE_STORE_SOCKET"
"""Environment variable with the file descriptor of the listening socket, which only rank 0 inherits."""
MEETING = "ALL4ONE_MEETING"
"""Environment variable with a name that only the ranks of one start of a SLURM job share."""


@contextmanager
def store_arguments() -> Iterator[dict[str, Any]]:
    """Give the arguments of `init_process_group` that name the store. Empty if another launcher is used.

    Raises:
        UserError: the ranks of a SLURM job cannot meet.
    """
    listening, meeting = os.environ.get(STORE_SOCKET), os.environ.get(MEETING)
    if listening is None and meeting is None:
        yield {}
        return
    from torch.distributed import PrefixStore, TCPStore  # the launcher imports this module without torch

    from trainer.distributed.cluster_store import cluster_store

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with ExitStack() as stack:
        if listening is not None:
            store = TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                world_size,
                is_master=rank == 0,
                master_listen_fd=int(listening) if rank == 0 else None,
            )
        else:
            meet = cluster_store(str(meeting), os.environ["MASTER_ADDR"], is_first=rank == 0)
            store = stack.enter_context(meet)
        yield {"store": PrefixStore("default_pg", store), "rank": rank, "world_size": world_size}
