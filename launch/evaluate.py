"""`all4one eval`: kNN and a linear probe on a frozen backbone, as a table and as JSON."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from data_pipelines.errors import UserError
from data_pipelines.files import write_whole
from data_pipelines.loader import EvalLoader
from data_pipelines.settings import DataSettings
from data_pipelines.shards import ShardSet
from trainer.evaluation.features import extract
from trainer.evaluation.knn import knn_accuracy
from trainer.evaluation.linear import linear_probe, wilson_interval
from trainer.trained import Trained, load_backbones


def evaluate_backbone(
    source: Path, *, knn: bool, linear: bool, train: str | None, validation: str | None, out: Path | None
) -> None:
    """Judge every backbone of a run, or the one of an exported file.

    Args:
        source: a run's folder, a checkpoint's folder or an exported file.
        knn: whether to vote by nearest neighbours.
        linear: whether to fit a linear probe.
        train: labelled shards to learn from; None: those that the backbone was trained on.
        validation: labelled shards to judge on; None: those of the backbone's recipe.
        out: file for the results; None: `eval.json` in a run's folder, `NAME.eval.json` beside a file or checkpoint.

    Raises:
        UserError: no such source, or sets that are missing, unlabelled or of different classes.
    """
    trained = load_backbones(source)
    settings = trained.recipe.data
    train_set = _labelled(train or settings.train, settings, "--train")
    validation_set = _labelled(validation or settings.validation, settings, "--validation")
    if train_set.classes != validation_set.classes:
        raise UserError(
            f"has other classes than {train_set.folder}",
            where=validation_set.folder,
            fix="give sets of the same classes",
        )
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    bank, bank_labels = _features(trained, train_set)
    queries, labels = _features(trained, validation_set)
    results: dict[str, Any] = {
        "source": str(source), "checkpoint": trained.recipe.source, "train": str(train_set.folder),
        "validation": str(validation_set.folder), "images": len(labels), "backbones": {},
    }  # fmt: skip
    for name in trained.backbones:
        result: dict[str, Any] = {}
        if knn:
            result["knn"] = asdict(
                knn_accuracy(
                    bank[name], bank_labels, queries[name], labels, num_classes=train_set.num_classes
                )
            )
        if linear:
            result["linear"] = asdict(
                linear_probe(
                    bank[name], bank_labels, queries[name], labels, num_classes=train_set.num_classes, seed=0
                )
            )
        results["backbones"][name] = result
    path = out or _place(source)
    _write(path, results)
    _print_table(results)
    print(f"wrote {path}")


def _labelled(folder: Path | str | None, settings: DataSettings, option: str) -> ShardSet:
    if folder is None:
        raise UserError(
            "the recipe names no labelled set for this", where=option, fix=f"give one with {option} SHARDS"
        )
    shards = ShardSet.open(folder, settings)
    if shards.num_classes == 0:
        raise UserError("has no labels", where=folder, fix=f"give a labelled set with {option} SHARDS")
    return shards


def _features(trained: Trained, shards: ShardSet) -> tuple[dict[str, Tensor], Tensor]:
    device = next(next(iter(trained.backbones.values())).parameters()).device
    loader = EvalLoader(shards, trained.recipe.data, rank=0, world_size=1, batch=256, device=device)
    console = Console(stderr=True)
    with loader, Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"features of {shards.folder}", total=len(loader))
        return extract(trained.backbones, loader, advance=lambda: bar.advance(task))


def _place(source: Path) -> Path:
    if (source / "config.yaml").is_file():
        return source / "eval.json"
    # the full name: step_00000014.1 is another checkpoint than step_00000014
    path = source.resolve()
    return path.with_name(f"{path.name}.eval.json")


def _write(path: Path, results: dict[str, Any]) -> None:
    try:
        write_whole(path, (json.dumps(results, indent=2) + "\n").encode())
    except OSError as error:
        raise UserError(
            f"cannot be written: {error.strerror}", where=path, fix="choose another place with --out"
        ) from None


def _print_table(results: dict[str, Any]) -> None:
    table = Table("backbone", "judge", "top-1 %", "95 % interval", "top-5 %", title=_title(results))
    for name, judged in results["backbones"].items():
        for judge, result in judged.items():
            low, high = wilson_interval(result["top1"], results["images"])
            interval = f"{100 * low:.2f} to {100 * high:.2f}"
            table.add_row(name, judge, f"{100 * result['top1']:.2f}", interval, f"{100 * result['top5']:.2f}")
    Console().print(table)


def _title(results: dict[str, Any]) -> str:
    return f"{results['source']} on {results['images']} images of {results['validation']}"
