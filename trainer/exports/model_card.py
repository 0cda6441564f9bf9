"""The model card of an export: the network, its training, its results and how to load it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.formatting import percent
from data_pipelines.shards.index import read_record
from data_pipelines.yaml_writer import dump_yaml
from trainer.exports.format import Subject
from trainer.exports.snippets import hub_snippet, snippet
from trainer.networks.backbones import BackboneSettings
from trainer.runs.records import read_records
from trainer.runs.run_folder import RunFolder

Row = tuple[str, float, float | None, str]
"""Evaluator, top-1, top-5 if it is known, and the dataset."""


def model_card(subject: Subject) -> str:
    """Return the model card as Markdown, with the front matter that model hubs read."""
    size, data = subject.recipe.image_size, subject.recipe.data
    library = "timm" if subject.is_plain else "torchvision"
    front = {
        "library_name": library,
        "pipeline_tag": "image-feature-extraction",
        **({"license": subject.license} if subject.license else {}),
        "tags": ["self-supervised"],
    }
    unknown = "Not chosen yet. Fill it in here and as `license:` above before you publish this model."
    parts = [
        "---",
        dump_yaml(front).strip(),
        "---",
        "",
        f"# {subject.name}, trained without labels",
        "",
        f"A backbone that turns images into {subject.backbone.feature_dim} features. It has no classifier.",
        "",
        *_recipe(subject),
        *_results(subject),
        "## Images",
        "",
        f"RGB in [0, 1]. The shorter side is resized to {data.eval_resize} pixels (bicubic), and a center crop of "
        f"{size} x {size} pixels is taken. Images are normalized with mean {list(data.mean)} and "
        f"standard deviation {list(data.std)}.",
        "",
        "## How to load it",
        "",
        *_from_hub(subject),
        "Run this in the folder, with an image `image.jpg` in it:",
        "",
        "```python",
        snippet(subject),
        "```",
        "",
        "## License",
        "",
        subject.license or unknown,
        "",
    ]
    return "\n".join(parts)


def _from_hub(subject: Subject) -> list[str]:
    if subject.repository is None:
        return []
    return [
        "From the hub, a backbone that also prepares its images:",
        "",
        "```python",
        hub_snippet(subject),
        "```",
        "",
    ]


def _recipe(subject: Subject) -> list[str]:
    """Return the training section. Without its run, only the checkpoint of a backbone is known."""
    rows = [("checkpoint", f"{Path(subject.recipe.source).name}, {_which(subject.which)}")]
    if subject.run is not None:
        config = RunFolder(subject.run).read_config()
        optim, train = config.optim, config.train
        rows += [
            ("data", " + ".join(map(_data, config.data.train_places))),
            ("method", config.method.name),
            ("epochs", f"{train.epochs}" + (f", at most {train.max_steps} steps" if train.max_steps else "")),
            ("global batch", f"{train.global_batch}"),
            ("optimizer", f"{optim.name}, weight decay {optim.weight_decay:g}"),
            ("learning rate", f"{optim.lr:g} for a batch of {optim.reference_batch} images"),
            ("schedule", f"{optim.warmup_epochs:g} epochs of warm-up, then a cosine"),
            ("precision", train.precision),
            ("seed", f"{config.run.seed}"),
            ("initial weights", _start(config.backbone)),
        ]
    lines = [f"| {name} | {value} |" for name, value in rows]
    return ["## Training", "", "| | |", "| --- | --- |", *lines, ""]


def _which(name: str) -> str:
    names = {"online": "the trained network", "momentum": "the momentum (EMA) encoder of the trained network"}
    return names.get(name, "from an exported file")


def _start(settings: BackboneSettings) -> str:
    if settings.init is not None:
        name = settings.init.name if isinstance(settings.init, Path) else settings.init
        return f"the weights of {name}"
    return "the library's pretrained weights" if settings.pretrained else "random weights"


def _data(place: Any) -> str:
    """Return the last two parts of the dataset's path, because the others belong to a specific machine."""
    name = "/".join(str(place).rstrip("/").split("/")[-2:])
    try:
        return f"{name}, {read_record(Path(place)).samples:,} images"
    except UserError:
        return name


def _results(subject: Subject) -> list[str]:
    rows = [*_during_training(subject), *_evaluated(subject)]
    if not rows:
        return ["## Results", "", "None were recorded.", ""]
    lines = (
        f"| {evaluator} | {percent(top1, unit=False)} | {percent(top5, unit=False)} | {when} |"
        for evaluator, top1, top5, when in rows
    )
    head = ["| evaluator | top-1 % | top-5 % | on |", "| --- | --- | --- | --- |"]
    return ["## Results", "", *head, *lines, ""]


def _during_training(subject: Subject) -> Iterator[Row]:
    """Yield the kNN result of the last evaluation in training that is not later than the checkpoint."""
    if subject.run is None or subject.step is None:
        return
    evaluations = [r for r in read_records(RunFolder(subject.run).metrics) if r.get("kind") == "eval"]
    records = [r for r in evaluations if r["step"] <= subject.step]
    value = records[-1].get(f"knn_{subject.which}") if records else None
    if value is not None:
        yield "kNN during training", value, None, f"the validation set, after step {records[-1]['step']}"


def _evaluated(subject: Subject) -> Iterator[Row]:
    """Yield the results of `all4one eval` for this checkpoint."""
    path = subject.run / "eval.json" if subject.run is not None else None
    if path is None or not path.is_file():
        return
    found = json.loads(path.read_text())
    if Path(found.get("checkpoint", "")).name != Path(subject.recipe.source).name:
        return
    where = _data(found["validation"]) if found.get("validation") else ""
    for evaluator, result in found.get("backbones", {}).get(subject.which, {}).items():
        if isinstance(result, dict) and isinstance(result.get("top1"), float):
            yield evaluator, result["top1"], result.get("top5"), where
