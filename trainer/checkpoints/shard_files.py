"""Files by which ranks that are left hand shards of the optimizer's state to the one that saves.

checkpoints/.tmp-ATTEMPT-0-shards-STEP/RANK    the shard of a rank: its bytes, named once they are whole

The name of the folder is that of a checkpoint that is being written, so the next attempt removes what is left of it.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from data_pipelines.errors import UserError
from data_pipelines.files import remove_if_possible, write_whole
from trainer.checkpoints.format import write_failed


class ShardFiles:
    """The shards of one step.

    Args:
        checkpoints: folder of the run's checkpoints.
        attempt: number of the attempt whose ranks hand over the shards.
        step: the step.
        require_lock: raises a UserError if another process has taken over the run.
    """

    def __init__(
        self, checkpoints: Path, attempt: int, step: int, *, require_lock: Callable[[], None]
    ) -> None:
        self._folder = checkpoints / f".tmp-{attempt}-0-shards-{step}"
        self._require_lock = require_lock

    def write(self, rank: int, content: Tensor) -> None:
        """Write the shard of a rank.

        Args:
            rank: the rank.
            content: its bytes, [bytes] uint8.

        Raises:
            UserError: the disk is full, over quota or not writable, or another process has taken over the run.
        """
        self._require_lock()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._folder / str(rank), content.numpy().tobytes())
        except OSError as error:
            raise write_failed(
                f"the shard of rank {rank} could not be written", self._folder, error
            ) from error

    def read(self, rank: int, size: int) -> Tensor:
        """Return the shard of a rank, [bytes] uint8.

        Args:
            rank: the rank.
            size: number of bytes that it has.

        Raises:
            UserError: the rank that had to write it did not, or another number of bytes.
        """
        file = self._folder / str(rank)
        try:
            content = bytearray(file.read_bytes())
        except OSError as error:
            raise _not_handed_over(file, rank, error.strerror or str(error)) from error
        if len(content) != size:
            raise _not_handed_over(file, rank, f"it has {len(content)} bytes instead of {size}")
        return torch.frombuffer(content, dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)

    def remove(self) -> None:
        """Remove all of them."""
        remove_if_possible(self._folder)


def _not_handed_over(file: Path, rank: int, why: str) -> UserError:
    return UserError(
        f"the copy of the shard of rank {rank} was not handed over: {why}",
        where=file,
        fix="nothing: the run goes on from its last checkpoint",
    )
