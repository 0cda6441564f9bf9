"""Load a trained backbone from a run's checkpoint or from an exported file."""

import importlib.util
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from data_pipelines.devices import choose_device
from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from data_pipelines.settings import DataSettings, Settings
from trainer.checkpoints.format import MANIFEST, Snapshot
from trainer.checkpoints.store import CheckpointStore
from trainer.config.schema import Config
from trainer.distributed.collectives import rank, world_size
from trainer.distributed.objects import broadcast_object
from trainer.engine.deepspeed_engine import load_model
from trainer.networks.backbones import Backbone, BackboneSettings, build_backbone
from trainer.networks.hub_weights import local_weights
from trainer.runs.named_checkpoint import checkpoint_path
from trainer.runs.run_folder import open_run

ONLINE, MOMENTUM, CLASSIFIER = "backbone.", "momentum.backbone.", "classifier."
METADATA_KEY = "all4one"


class Recipe(Settings):
    """The settings to build a backbone and to prepare its images. Exported files keep them in their metadata, as
    JSON."""

    backbone: BackboneSettings
    """How to build the backbone."""
    data: DataSettings
    """How to resize and normalize images."""
    source: str
    """The checkpoint from which it was exported."""

    @property
    def image_size(self) -> int:
        """Side of the square images it was trained on, in pixels."""
        return self.data.views[0].size


@dataclass(frozen=True)
class LoadedBackbones:
    """The backbones of a run or a file."""

    backbones: dict[str, Backbone]
    """`online` and `momentum` of a run, or `exported` of a file, in evaluation mode, on the GPU if there is one."""
    recipe: Recipe
    run: Path | None = None
    """Folder of the run, if they come from one."""
    step: int | None = None
    """Step of the run's checkpoint."""
    classifier: nn.Linear | None = None
    """The classifier that trained beside the online backbone, if the training set has labels."""
    trained_on: str | None = None
    """Fingerprint of the run's training set, whose classes the classifier knows."""

    def choose(self, name: str | None) -> tuple[str, Backbone]:
        """Return one of the backbones with its name. None selects the trained network, or the only backbone.

        Raises:
            UserError: there is no backbone of that name.
        """
        chosen = name or next(iter(self.backbones))
        if chosen not in self.backbones:
            raise UserError(
                f"has no {name} backbone. Available: {', '.join(self.backbones)}",
                where=self.run or self.recipe.source,
                fix="leave the choice out; an exported file has one backbone, and some methods have no momentum "
                "(EMA) encoder",
            )
        return chosen, self.backbones[chosen]

    def select(self, name: str | None) -> dict[str, Backbone]:
        """Return the backbone of a name, or all of them for None. Raise a UserError if there is none of that name."""
        return self.backbones if name is None else dict([self.choose(name)])


def load_backbones(source: Path) -> LoadedBackbones:
    """Load the backbones of a run's newest valid checkpoint, of one checkpoint's folder, or of an exported file.

    `RUN@STEP` and `RUN@best` name a checkpoint of a run. `hf://ORG/NAME` and `hf://ORG/NAME@REVISION` name an exported
    file on the Hugging Face hub, which is downloaded.

    Raises:
        UserError: there is no such run, no checkpoint or no such model on the hub, or `all4one export` did not write
            the file.
    """
    file, shown = local_weights(source)
    source = checkpoint_path(file)
    if source.is_file():
        tensors, recipe = _read_exported(source, shown)
        return LoadedBackbones({"exported": _build(recipe, tensors)}, recipe)
    snapshot, config, path = _read_checkpoint(source)
    recipe = Recipe(backbone=config.backbone, data=_as_here(config.data), source=str(path))
    parts = {"online": _under(snapshot.model, ONLINE), "momentum": _under(snapshot.model, MOMENTUM)}
    backbones = {name: _build(recipe, tensors) for name, tensors in parts.items() if tensors}
    return LoadedBackbones(
        backbones,
        recipe,
        path.parent.parent,
        snapshot.step,
        _classifier(_under(snapshot.model, CLASSIFIER)),
        snapshot.state.get("data"),
    )


def _classifier(tensors: Mapping[str, Tensor]) -> nn.Linear | None:
    """Return the online classifier with these weights `[C, F]`. None: there are none."""
    if not tensors:
        return None
    classes, width = tensors["weight"].shape
    classifier = nn.Linear(width, classes)
    load_model(classifier, tensors)
    return classifier.to(choose_device()).eval()


def _as_here(data: DataSettings) -> DataSettings:
    """Return a run's data settings with an executor that this machine has, because another machine may have trained
    it."""
    if data.executor != "dali":
        return data
    with suppress(ModuleNotFoundError):
        if importlib.util.find_spec("nvidia.dali") is not None:
            return data
    return data.model_copy(update={"executor": "auto"})


def load_same_on_all_ranks(source: Path) -> LoadedBackbones:
    """Run `load_backbones` on every rank with the checkpoint that the first rank finds.

    While a run still trains, its newest checkpoint may change between two ranks.
    """
    if world_size() == 1:
        return load_backbones(source)
    trained = load_backbones(source) if rank() == 0 else None
    found = Path(trained.recipe.source) if trained is not None and trained.run is not None else source
    found = broadcast_object(found)
    return load_backbones(found) if trained is None else trained


def _read_checkpoint(source: Path) -> tuple[Snapshot, Config, Path]:
    """Read a checkpoint's folder, or a run's newest valid checkpoint, together with the run's configuration."""
    if (source / MANIFEST).is_file():
        source = source.resolve()  # `source` may be `.`
        run = open_run(source.parent.parent)
        return CheckpointStore(run.checkpoints).load(source), run.read_config(), source
    run = open_run(source)
    loaded = CheckpointStore(run.checkpoints).load_newest()
    if loaded is None:
        raise UserError(
            "has no valid checkpoint yet", where=run.path, fix=f"run: all4one resume {quoted(run.path)}"
        )
    return loaded.snapshot, run.read_config(), loaded.path


def _read_exported(path: Path, shown: str) -> tuple[dict[str, Tensor], Recipe]:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata: Any = json.loads((file.metadata() or {})[METADATA_KEY])
            return {name: file.get_tensor(name) for name in file.keys()}, Recipe.model_validate(metadata)  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError, ValidationError):
        raise UserError(
            "is not a file of `all4one export` in the format safetensors or hf",
            where=shown,
            fix="give the folder of a run, or export its backbone. backbone.init also takes weights of other projects",
        ) from None


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _build(recipe: Recipe, tensors: Mapping[str, Tensor]) -> Backbone:
    backbone = build_backbone(recipe.backbone.drawn(), recipe.image_size)
    load_model(backbone, tensors)
    device = choose_device()
    return backbone.to(device).to(memory_format=torch.channels_last).eval()
