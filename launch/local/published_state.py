"""New runs that go on from a checkpoint of the published code."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from data_pipelines.errors import UserError
from trainer.checkpoints.format import Snapshot
from trainer.checkpoints.published import METHODS, PublishedCheckpoint
from trainer.checkpoints.rollback_state import RollbackState
from trainer.checkpoints.store import CheckpointStore
from trainer.config.resume_compat import fingerprint
from trainer.config.schema import Config
from trainer.engine.divergence_guard import Guard, GuardSettings
from trainer.methods import Method
from trainer.networks.backbones import build_backbone
from trainer.runs.components import IMAGES, open_train_set, total_steps
from trainer.runs.run_folder import RunFolder
from trainer.runs.saved_progress import TAKEN


@dataclass(frozen=True)
class PublishedState:
    """A checkpoint of the published code, which a run begins with."""

    checkpoint: PublishedCheckpoint

    @classmethod
    def of(cls, path: Path) -> "PublishedState":
        """Read the file. Raises a UserError as `PublishedCheckpoint.read` does."""
        return cls(PublishedCheckpoint.read(path))

    @property
    def step(self) -> int:
        """Number of steps that are done."""
        return self.checkpoint.step

    def refuse_unfit(self, config: Config) -> None:
        """Raise a UserError if a run with these settings cannot go on from this state."""
        if config.method.name not in METHODS or config.optim.name not in ("lars", "sgd"):
            raise UserError(
                f"published checkpoints go on with {', '.join(METHODS)} and the optimizers lars and sgd, "
                f"not with {config.method.name} and {config.optim.name}",
                where=self.checkpoint.path,
                fix="to start from its backbone only, set backbone.init to this file and leave --from out",
            )
        train_set = open_train_set(config.data)
        end = total_steps(config, len(train_set) // config.train.global_batch)
        if end <= self.step:
            raise UserError(
                f"the new run would end at step {end}, and the state that it takes is that of step {self.step}",
                where=self.checkpoint.path,
                fix="set a larger train.epochs or train.max_steps",
            )
        self.checkpoint.model_state(_shapes(config, train_set.num_classes), IMAGES[config.train.precision])

    def put_into(self, run: RunFolder, config: Config) -> None:
        """Write the state into the folder of a new run, as its first checkpoint.

        Raises:
            UserError: the folder cannot be written.
        """
        train_set, dtype = open_train_set(config.data), IMAGES[config.train.precision]
        method = _shapes(config, train_set.num_classes)
        epoch, batch = divmod(self.step, len(train_set) // config.train.global_batch)
        state = {
            "step": self.step,
            "epoch": epoch,
            "position": batch * config.train.global_batch,
            "rollback": asdict(RollbackState()),
            "guard": Guard(GuardSettings(), torch.device("cpu")).state_dict(),
            "seed": config.run.seed,
            "config": fingerprint(config.with_absolute_paths()),
            "data": train_set.fingerprint,
            "classes": train_set.num_classes,
            "attempt": 0,
            "world_size": 1,
            "saved": time.time(),
            "versions": {},
        }
        model = self.checkpoint.model_state(method, dtype)
        optimizer = self.checkpoint.optimizer_state(method, dtype)
        # Noted first: if this process is killed now, the run must not begin at step 0 without a word.
        run.note(TAKEN, run=str(self.checkpoint.path.absolute()), step=self.step)
        CheckpointStore(run.checkpoints, attempt=0).write(Snapshot(self.step, model, optimizer, state))
        print(f"goes on from step {self.step} of {self.checkpoint.path}", flush=True)


def _shapes(config: Config, num_classes: int) -> Method:
    """Return the method without memory for its weights."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        backbone = build_backbone(config.backbone.drawn(), *config.data.sizes)
        return config.method.build(backbone, num_classes)
