"""New runs that take the whole state of another run and go on with another schedule or length."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from launch.local.published_state import PublishedState
from trainer.checkpoints.store import CheckpointStore
from trainer.config.resume_compat import fingerprint, training_config
from trainer.config.schema import Config
from trainer.runs.components import open_train_set, refuse_other_set, total_steps
from trainer.runs.named_checkpoint import named_checkpoint
from trainer.runs.run_folder import RunFolder
from trainer.runs.saved_progress import TAKEN

SCHEDULE = ("optim", "train.epochs", "train.max_steps")
"""Settings that a run may change when it goes on from another one."""
FIXED = ("optim.name",)
"""Settings among them that must stay, because the optimizer's state depends on them."""


class FirstState(Protocol):
    """State with which a new run begins."""

    @property
    def step(self) -> int:
        """Number of steps that are done."""
        ...

    def refuse_unfit(self, config: Config) -> None:
        """Raise a UserError if a run with these settings cannot go on from this state."""
        ...

    def put_into(self, run: RunFolder, config: Config) -> None:
        """Write the state into the folder of a new run, as its first checkpoint."""
        ...


@dataclass(frozen=True)
class TakenState:
    """A checkpoint of a run, which another run begins with."""

    source: RunFolder
    checkpoint: Path
    state: dict[str, Any]
    """The JSON part of the checkpoint."""

    @property
    def step(self) -> int:
        """Number of steps that are done."""
        return int(self.state["step"])

    @classmethod
    def of(cls, words: str) -> "TakenState":
        """Return the state that `RUN`, `RUN@STEP` or `RUN@best` names.

        Raises:
            UserError: there is no such run or no such checkpoint.
        """
        return cls(*named_checkpoint(words))

    def refuse_unfit(self, config: Config) -> None:
        """Raise a UserError if a run with these settings cannot go on from this state."""
        before = training_config(self.source.read_config().with_absolute_paths())
        after = training_config(config.with_absolute_paths())
        changed = [
            f"  {key}: {before.get(key)} -> {after.get(key)}"
            for key in sorted({*before, *after})
            if before.get(key) != after.get(key) and not _belongs_to_schedule(key)
        ]
        if changed:
            raise UserError(
                "a run that goes on from another one may change its schedule and length, and not these settings:\n"
                + "\n".join(changed),
                where=self.source.config,
                fix="leave them as they are, or take only the weights: export the backbone, and set backbone.init",
            )
        train_set = open_train_set(config.data)
        refuse_other_set(self.state, train_set)
        end = total_steps(config, len(train_set) // config.train.global_batch)
        if end <= self.step:
            raise UserError(
                f"the new run would end at step {end}, and the state that it takes is that of step {self.step}",
                where=self.checkpoint,
                fix="set a larger train.epochs or train.max_steps, or take an earlier checkpoint with RUN@STEP",
            )

    def put_into(self, run: RunFolder, config: Config) -> None:
        """Write the state into the folder of a new run, as its first checkpoint.

        Raises:
            UserError: the checkpoint is damaged, or the folder cannot be written.
        """
        snapshot = CheckpointStore(self.source.checkpoints).load(self.checkpoint)
        # Noted first: if this process is killed now, the run must not begin at step 0 without a word.
        run.note(TAKEN, run=str(self.source.path.absolute()), step=self.step)
        state = snapshot.state | {"config": fingerprint(config.with_absolute_paths())}
        CheckpointStore(run.checkpoints, attempt=0).write(replace(snapshot, state=state))
        print(f"goes on from step {self.step} of {quoted(self.source.path)}", flush=True)


def new_run_settings(
    recipe: str | None, overrides: Sequence[str] | None, taken_from: str | None
) -> tuple[str | Path, list[str], FirstState | None]:
    """Return recipe, overrides and first state of a new run from the arguments of a command.

    Args:
        recipe: the first argument. With `taken_from` it may be missing, or an override.
        overrides: the other arguments.
        taken_from: `RUN`, `RUN@STEP`, `RUN@best`, or the file of a published checkpoint. None: the run begins at step
            0, and there is a recipe.

    Raises:
        UserError: there is no such run or no such checkpoint, or a published one has no recipe.
    """
    given = list(overrides or ())
    if taken_from is None:
        assert recipe is not None
        return recipe, given, None
    named = recipe is not None and ("=" not in recipe or Path(recipe).exists())
    if Path(taken_from).is_file():
        if recipe is None or not named:
            raise UserError(
                "a published checkpoint does not hold its settings",
                where=taken_from,
                fix=f"name a recipe with the same networks: all4one train RECIPE --from {quoted(Path(taken_from))}",
            )
        return recipe, given, PublishedState.of(Path(taken_from))
    taken = TakenState.of(taken_from)
    if recipe is not None and named:
        return recipe, given, taken
    name = json.dumps(f"{taken.source.path.resolve().name}_from_{taken.step}")
    return taken.source.config, [f"run.name={name}", *([] if recipe is None else [recipe]), *given], taken


def _belongs_to_schedule(key: str) -> bool:
    return key not in FIXED and f"{key}.".startswith(tuple(f"{name}." for name in SCHEDULE))
