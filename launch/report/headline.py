"""The key figures at the top of the page. Each figure of quality names the step that it belongs to."""

from pathlib import Path
from typing import NamedTuple

from data_pipelines.formatting import percent
from launch.report.facts import RunFacts
from launch.report.metrics import describe
from trainer.checkpoints.folder_names import FOLDER

_KNN_MEANING = "Accuracy of a vote of the nearest training images. Higher is better."
_SEPARATELY = "evaluated separately"  # by `all4one eval` or by a study
_MEANINGS = {
    "linear": "Accuracy of a linear classifier on frozen features. Higher is better.",
    "finetune": "Accuracy after training the whole network with labels. Higher is better.",
}


class KeyFigure(NamedTuple):
    """One number of a run."""

    name: str
    value: str
    when: str = ""
    """The step that the value belongs to, and whether the backbone was trained at all."""
    meaning: str = ""
    """What the number is, and what is good."""


def key_figures(facts: RunFacts) -> list[KeyFigure]:
    """Return the most important numbers of a run."""
    status = facts.status
    epoch = next((r["epoch"] for r in reversed(facts.records)), 0.0)
    total = f" of {status.total_steps:,}" if status.total_steps else ""
    whole = f" of {facts.config.train.epochs:,}" if not facts.config.train.max_steps else ""
    figures = [
        KeyFigure("state", status.state),
        KeyFigure("steps", f"{status.step:,}{total}", meaning="Updates of the weights."),
        KeyFigure("epochs", f"{epoch:.4g}{whole}", meaning="Passes over the training set."),
        *_accuracies(facts),
        *_best(facts),
    ]
    if status.images_per_second:
        speed = f"{status.images_per_second:,.0f}"
        figures.append(KeyFigure("images/s", speed, meaning="Training speed on all devices together."))
    hours = status.goodput.allocated_device_seconds / 3600
    shown = f"{hours:,.2f}" if hours >= 0.01 or not hours else "below 0.01"
    fraction = status.goodput.fraction
    goodput = "unknown" if fraction is None else f"{100 * fraction:.1f} %"
    meaning = "Fraction of the allocated device-time in steps that count. Higher is better."
    return [
        *figures,
        *([KeyFigure("goodput", goodput, meaning=meaning)] if hours else []),
        KeyFigure("device-hours", shown, meaning="Hours times devices over all attempts."),
        KeyFigure(
            "attempts", str(status.attempts), meaning="Starts of the run. 1 if nothing interrupted it."
        ),
    ]


def _accuracies(facts: RunFacts) -> list[KeyFigure]:
    """Return kNN and the other accuracies. kNN comes from the newest evaluation, during training or
    separately."""
    figures = [_knn(facts, backbone) for backbone in ("momentum", "online")]
    when = _when_evaluated(facts)
    for backbone, by in facts.backbones.items():
        for evaluator, result in by.items():
            kind = next((kind for kind in _MEANINGS if evaluator.startswith(kind)), None)
            if kind and "top1" in result:
                value = percent(result["top1"])
                figures.append(KeyFigure(f"{evaluator}, {backbone}", value, when, _MEANINGS[kind]))
    return [figure for figure in figures if figure is not None]


def _knn(facts: RunFacts, backbone: str) -> KeyFigure | None:
    name = f"knn_{backbone}"
    label, record = describe(name).label, facts.newest_record(name)
    evaluated = {e: r for e, r in facts.backbones.get(backbone, {}).items() if e.startswith("knn_")}
    step = _evaluated_step(facts)
    if evaluated and (record is None or (step is not None and step > record["step"])):
        evaluator, result = next(iter(evaluated.items()))
        k = evaluator.removeprefix("knn_")
        return KeyFigure(
            label, percent(result["top1"]), f"{_when_evaluated(facts)}, {k} neighbors", _KNN_MEANING
        )
    if record is None:
        return None
    when = f"epoch {record['epoch']:.4g}, step {record['step']:,}"
    if record["step"] == 0:
        when = _before_training(facts)
    return KeyFigure(label, percent(record[name]), when, _KNN_MEANING)


def _best(facts: RunFacts) -> list[KeyFigure]:
    best = facts.status.best
    if best is None:
        return []
    name = f"best checkpoint, {describe(best.metric).label}"
    return [KeyFigure(name, percent(best.value), f"step {best.step:,}", "Kept by checkpoint.keep_best.")]


def _before_training(facts: RunFacts) -> str:
    backbone = facts.config.backbone
    if backbone.pretrained or backbone.init is not None:
        return "step 0: before training, with the weights that the run starts from"
    return "step 0: untrained backbone"


def _evaluated_step(facts: RunFacts) -> int | None:
    if facts.evaluated is None:
        return None
    found = FOLDER.fullmatch(Path(facts.evaluated["checkpoint"]).name)
    return int(found[1]) if found else None


def _when_evaluated(facts: RunFacts) -> str:
    step = _evaluated_step(facts)
    if step is None:
        return _SEPARATELY
    return f"step {step:,}, {_SEPARATELY}" if step else f"{_before_training(facts)}, {_SEPARATELY}"
