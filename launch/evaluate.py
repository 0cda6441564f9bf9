"""`all4one eval`: judges of a backbone, as a table and as JSON."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from data_pipelines.errors import UserError
from data_pipelines.loader import EvalLoader
from data_pipelines.settings import DataSettings, Settings
from data_pipelines.shards import ShardSet
from launch.eval_results import Results
from trainer.backbones import Backbone
from trainer.evaluation.features import Features, extract
from trainer.evaluation.judges import Judges, judge_features, require_neighbours
from trainer.trained import Trained, load_backbones


class EvalJob(Settings):
    """What `all4one eval` was told."""

    source: Path
    """A run's folder, a checkpoint's folder or an exported file."""
    judges: Judges
    """Whom to ask."""
    train: str | None = None
    """Labelled shards to learn from; None: those that the backbone was trained on."""
    validation: str | None = None
    """Labelled shards to judge on; None: those of the backbone's recipe."""
    out: Path | None = None
    """File for the results; None: `eval.json` in a run's folder, `NAME.eval.json` beside a file or checkpoint."""

    @property
    def place(self) -> Path:
        """File for the results."""
        if self.out is not None:
            return self.out
        if (self.source / "config.yaml").is_file():
            return self.source / "eval.json"
        # the full name: step_00000014.1 is another checkpoint than step_00000014
        path = self.source.resolve()
        return path.with_name(f"{path.name}.eval.json")


def evaluate_backbone(job: EvalJob) -> None:
    """Judge every backbone of a run, or the one of an exported file; what each judge finds is written at once.

    Raises:
        UserError: no such source, or sets that are missing, unlabelled or of different classes.
    """
    trained = load_backbones(job.source)
    settings = trained.recipe.data
    train_set = _labelled(job.train or settings.train, settings, "--train")
    validation_set = _labelled(job.validation or settings.validation, settings, "--validation")
    if train_set.classes != validation_set.classes:
        raise UserError(
            f"has other classes than {train_set.folder}",
            where=validation_set.folder,
            fix="give sets of the same classes",
        )
    require_neighbours(job.judges.knn, torch.from_numpy(train_set.index["label"].astype("int64")))
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    facts: dict[str, Any] = {
        "source": str(job.source), "checkpoint": trained.recipe.source, "weights": fingerprint(trained.backbones),
        "train": str(train_set.folder), "validation": str(validation_set.folder),
        "images": int((validation_set.index["label"] >= 0).sum()),
    }  # fmt: skip
    results = Results(job.place, facts)
    if job.judges.of_features:
        bank, queries = _features(trained, train_set), _features(trained, validation_set)
        results.found["images"] = int((queries.labels >= 0).sum())
        for name, judge, result in judge_features(job.judges, bank, queries, train_set.num_classes):
            results.add(name, judge, result)
            results.write()
    results.show()
    print(f"wrote {results.path}")


def fingerprint(backbones: Mapping[str, Backbone]) -> str:
    """A hash of all weights: results of others are not of these."""
    digest = hashlib.blake2b(digest_size=8)
    for backbone in backbones.values():
        for name, value in backbone.state_dict().items():
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _labelled(folder: Path | str | None, settings: DataSettings, option: str) -> ShardSet:
    if folder is None:
        raise UserError(
            "the recipe names no labelled set for this", where=option, fix=f"give one with {option} SHARDS"
        )
    shards = ShardSet.open(folder, settings)
    if shards.num_classes == 0:
        raise UserError("has no labels", where=folder, fix=f"give a labelled set with {option} SHARDS")
    return shards


def _features(trained: Trained, shards: ShardSet) -> Features:
    device = next(next(iter(trained.backbones.values())).parameters()).device
    loader = EvalLoader(shards, trained.recipe.data, rank=0, world_size=1, batch=256, device=device)
    console = Console(stderr=True)
    with loader, Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"features of {shards.folder}", total=len(loader))
        return extract(trained.backbones, loader, advance=lambda: bar.advance(task))
