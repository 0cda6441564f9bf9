"""The loss of another rank, as this rank sees it. Loads no torch."""

import gc

SIGNS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""What gloo's messages say if the process at the other end of a connection has ended."""


def is_lost_peer(error: BaseException) -> bool:
    """Return whether an exception says that another rank has ended."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def leave_group() -> None:
    """Close this rank's connections to all others, so that no other rank keeps waiting for it.

    The group cannot be used afterward. A rank that waits for a message from this one gets the error of a lost peer.
    """
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
    gc.collect()  # a connection closes when the last reference to its group is gone
