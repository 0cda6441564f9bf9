"""How the ranks of one machine meet: at a socket of the loopback address that their launcher has opened.

The store that torch opens by itself listens on all network interfaces, and its port may be taken before it does.
"""

import os
from typing import Any

STORE_SOCKET = "ALL4ONE_STORE_SOCKET"
"""Environment variable with the file descriptor of the listening socket, which only rank 0 inherits."""


def loopback_store() -> dict[str, Any]:
    """Return the arguments of `init_process_group` for the launcher's socket. Empty if another launcher is used."""
    listening = os.environ.get(STORE_SOCKET)
    if listening is None:
        return {}
    from torch.distributed import PrefixStore, TCPStore  # the launcher imports this module without torch

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        world_size,
        is_master=rank == 0,
        master_listen_fd=int(listening) if rank == 0 else None,
    )
    return {"store": PrefixStore("default_pg", store), "rank": rank, "world_size": world_size}
