"""A trained backbone on its own: read from a run's checkpoint or from an exported file."""

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
from torch import Tensor

from data_pipelines.errors import UserError
from data_pipelines.settings import DataSettings, Settings
from trainer.checkpoints.format import MANIFEST, Snapshot
from trainer.checkpoints.store import CheckpointStore
from trainer.config.schema import Config
from trainer.distributed.collectives import rank, world_size
from trainer.distributed.process_group import broadcast_object
from trainer.engine.deepspeed_engine import load_model
from trainer.networks.backbones import Backbone, BackboneSettings, build_backbone
from trainer.runs.run_folder import open_run

ONLINE, MOMENTUM = "backbone.", "momentum.backbone."
METADATA_KEY = "all4one"


class Recipe(Settings):
    """What a backbone needs to be built and fed: kept in the metadata of an exported file, as JSON."""

    backbone: BackboneSettings
    """How it is built."""
    data: DataSettings
    """How images are sized and normalized for it."""
    source: str
    """The checkpoint that it comes from."""

    @property
    def image_size(self) -> int:
        """Side of the square images that it was trained on, pixels."""
        return self.data.views[0].size


@dataclass(frozen=True)
class LoadedBackbones:
    """Backbones of a run or a file."""

    backbones: dict[str, Backbone]
    """`online` and `momentum` of a run, `exported` of a file; in evaluation mode, on the GPU if there is one."""
    recipe: Recipe
    run: Path | None = None
    """Folder of the run that they were read from."""
    step: int | None = None
    """Of the run's checkpoint."""

    def choose(self, name: str | None) -> tuple[str, Backbone]:
        """One of the backbones with its name; None: the trained network, or the only one.

        Raises:
            UserError: there is none of that name.
        """
        chosen = name or next(iter(self.backbones))
        if chosen not in self.backbones:
            raise UserError(
                f"has no {name} backbone, only: {', '.join(self.backbones)}",
                where=self.run or self.recipe.source,
                fix="leave the choice out; an exported file has one backbone, and not every method an averaged copy",
            )
        return chosen, self.backbones[chosen]


def load_backbones(source: Path) -> LoadedBackbones:
    """Backbones of a run's newest whole checkpoint, of one checkpoint's folder, or of an exported file.

    Raises:
        UserError: no such run, no checkpoint, or a file that `all4one export` did not write.
    """
    if source.is_file():
        tensors, recipe = _read_exported(source)
        return LoadedBackbones({"exported": _build(recipe, tensors)}, recipe)
    snapshot, config, path = _read_checkpoint(source)
    recipe = Recipe(backbone=config.backbone, data=_as_here(config.data), source=str(path))
    parts = {"online": _under(snapshot.model, ONLINE), "momentum": _under(snapshot.model, MOMENTUM)}
    backbones = {name: _build(recipe, tensors) for name, tensors in parts.items() if tensors}
    return LoadedBackbones(backbones, recipe, path.parent.parent, snapshot.step)


def _as_here(data: DataSettings) -> DataSettings:
    """A run's data settings, with an executor that this machine has: it need not be the one that trained."""
    if data.executor != "dali":
        return data
    with suppress(ModuleNotFoundError):
        if importlib.util.find_spec("nvidia.dali") is not None:
            return data
    return data.model_copy(update={"executor": "auto"})


def load_same_on_all_ranks(source: Path) -> LoadedBackbones:
    """As `load_backbones`, on every rank the checkpoint that the first one finds: while a run still trains, its newest
    one is another a moment later.
    """
    if world_size() == 1:
        return load_backbones(source)
    trained = load_backbones(source) if rank() == 0 else None
    found = Path(trained.recipe.source) if trained is not None and trained.run is not None else source
    found = broadcast_object(found)
    return load_backbones(found) if trained is None else trained


def _read_checkpoint(source: Path) -> tuple[Snapshot, Config, Path]:
    """One checkpoint's folder, or the newest whole one of a run, and the run's configuration."""
    if (source / MANIFEST).is_file():
        source = source.resolve()  # which may be `.`
        run = open_run(source.parent.parent)
        return CheckpointStore(run.checkpoints).load(source), run.read_config(), source
    run = open_run(source)
    loaded = CheckpointStore(run.checkpoints).load_newest()
    if loaded is None:
        raise UserError("has no whole checkpoint yet", where=run.path, fix=f"all4one resume {run.path}")
    return loaded.snapshot, run.read_config(), loaded.path


def _read_exported(path: Path) -> tuple[dict[str, Tensor], Recipe]:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata: Any = json.loads((file.metadata() or {})[METADATA_KEY])
            return {name: file.get_tensor(name) for name in file.keys()}, Recipe.model_validate(metadata)  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError, ValidationError):
        raise UserError(
            "is not a file that `all4one export` wrote in the format safetensors or hf",
            where=path,
            fix="give a run's folder, or export one",
        ) from None


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _build(recipe: Recipe, tensors: Mapping[str, Tensor]) -> Backbone:
    backbone = build_backbone(recipe.backbone.drawn(), recipe.image_size)
    load_model(backbone, tensors)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return backbone.to(device).to(memory_format=torch.channels_last).eval()
