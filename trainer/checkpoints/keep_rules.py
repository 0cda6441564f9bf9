"""When a run writes checkpoints, and which of them it keeps."""

import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from pydantic import Field

from data_pipelines.settings import Settings

FOLDER = re.compile(r"step_(\d{8,})(?:\.(\d+))?")
"""The name of a checkpoint's folder: its step, and a revision if the step was written again."""


class CheckpointSettings(Settings):
    """When to write checkpoints, and which to keep."""

    every_steps: int = Field(0, ge=0)
    """Steps between checkpoints. 0: `every_epochs` decides."""
    every_epochs: float = Field(1.0, ge=0)
    """Epochs between checkpoints if `every_steps` is 0. 0: only when the run ends or is interrupted."""
    every_minutes: float = Field(0, ge=0)
    """Most minutes between checkpoints, beside the two above. It bounds what a kill costs. 0: no bound."""
    keep_last: int = Field(3, ge=1)
    """Number of newest checkpoints to keep."""
    keep_every: int = Field(0, ge=0)
    """Checkpoints at multiples of this many steps are kept permanently. 0: none."""

    def interval(self, steps_per_epoch: int) -> int:
        """Steps between checkpoints; 0: none during the run."""
        if self.every_steps or not self.every_epochs:
            return self.every_steps
        return max(1, round(self.every_epochs * steps_per_epoch))


def kept(
    newest: Path,
    earlier: Sequence[Path],
    *,
    keep_last: int,
    keep_every: int,
    is_good: Callable[[Path], bool] | None = None,
    trusted: int = -1,
) -> set[Path]:
    """Return the checkpoints to keep.

    Args:
        newest: the checkpoint that was just written.
        earlier: the valid checkpoints from before, oldest first.
        keep_last: number of newest checkpoints to keep, at least 1.
        keep_every: checkpoints at multiples of this many steps are kept too. 0: none.
        is_good: whether a run may roll back to a checkpoint. It is given if the newest one follows broken steps. Then
            one more checkpoint is kept, and in any case the newest good one. Without this, a run that is interrupted
            again and again during broken steps would lose its last good checkpoint.
        trusted: the newest checkpoint up to this step is kept too, because later ones may have to be set aside.
    """
    keep_last += is_good is not None
    older = [path for path in earlier if step_and_revision(path)[0] != step_and_revision(newest)[0]]
    chosen = {newest, *older[len(older) - min(len(older), keep_last - 1) :]}
    if keep_every:
        chosen |= {path for path in older if step_and_revision(path)[0] % keep_every == 0}
    if is_good is not None:
        chosen |= set(islice(filter(is_good, reversed(older)), 1))
    up_to_trusted = [path for path in (*older, newest) if step_and_revision(path)[0] <= trusted]
    return chosen | set(up_to_trusted[-1:])


def step_and_revision(path: Path) -> tuple[int, int]:
    """Return (step, revision) from the name of a checkpoint's folder."""
    match = FOLDER.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)
