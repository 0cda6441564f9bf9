"""When a run writes checkpoints, and which of them it keeps."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from pydantic import Field

from data_pipelines.settings import Settings
from trainer.checkpoints.folder_names import step_and_revision

NO_VALUES: Mapping[int, float] = MappingProxyType({})
"""The evaluated values of a run that has none."""


class CheckpointSettings(Settings):
    """When to write checkpoints, and which to keep."""

    every_steps: int = Field(0, ge=0)
    """Steps between checkpoints. 0: `every_epochs` decides."""
    every_epochs: float = Field(1.0, ge=0)
    """Epochs between checkpoints if `every_steps` is 0. 0: only when the run ends or is interrupted."""
    every_minutes: float = Field(0, ge=0)
    """Most minutes between checkpoints, beside the two above. It bounds what a kill costs. 0: no bound."""
    replicate_every: int = Field(500, ge=0)
    """Steps between copies of the state that ranks keep for each other in host memory, at ZeRO stages 1 and 2. If a
    rank is lost, at most this many steps are redone. Each rank keeps its own shard of the optimizer's state and that of
    a neighbor, on another node if there is one. Two ranks of each node keep the model. Stage 0 needs no copies. 0:
    none."""
    keep_last: int = Field(3, ge=1)
    """Number of newest checkpoints to keep."""
    keep_every: int = Field(0, ge=0)
    """Checkpoints at multiples of this many steps are kept permanently. 0: none."""
    keep_best: str = ""
    """The checkpoint with the highest value of this metric is kept too: `knn_online` or `knn_momentum`, the accuracies
    of the evaluation during training. An evaluation with a new highest value saves a checkpoint. Empty: none."""

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
    values: Mapping[int, float] = NO_VALUES,
    is_good: Callable[[Path], bool] | None = None,
    trusted: int = -1,
) -> set[Path]:
    """Return the checkpoints to keep.

    Args:
        newest: the checkpoint that was just written.
        earlier: the valid checkpoints from before, oldest first.
        keep_last: number of newest checkpoints to keep, at least 1.
        keep_every: checkpoints at multiples of this many steps are kept too. 0: none.
        values: evaluated values by step. The checkpoint with the best one is kept too.
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
    best = best_step(values, (step_and_revision(path)[0] for path in (newest, *older)))
    chosen |= {path for path in older if step_and_revision(path)[0] == best}
    if is_good is not None:
        chosen |= set(islice(filter(is_good, reversed(older)), 1))
    up_to_trusted = [path for path in (*older, newest) if step_and_revision(path)[0] <= trusted]
    return chosen | set(up_to_trusted[-1:])


def best_step(values: Mapping[int, float], steps: Iterable[int]) -> int | None:
    """Return the step with the highest value, or None if no step has a value. Of equal values the earliest step wins.

    Args:
        values: evaluated values by step.
        steps: the steps to choose from.
    """
    return max(sorted(set(steps) & values.keys()), key=values.__getitem__, default=None)
