"""Lines in the place of charts that would show nothing: values that are missing, and values that never change."""

from collections.abc import Collection, Iterator, Sequence

from launch.report.curves import EVALUATION, HEALTH, LOSSES, Curve
from launch.report.facts import RunFacts
from launch.report.metrics import describe, formatted

_NAMED = 10
"""Maximum number of values in a line."""


def in_one_line(name: str, lines: Sequence[tuple[str, Curve]]) -> str | None:
    """Return a value as text if its curves would be points or one flat line, and None if they need a chart.

    Args:
        name: name of the value.
        lines: each curve with its label.
    """
    label, found = describe(name).label, {value for _, curve in lines for value in curve.values}
    epochs = {epoch for _, curve in lines for epoch in curve.epochs}
    if len(epochs) == 1:
        shown = [formatted(name, curve.values[-1]) for _, curve in lines]
        if len(lines) > 1:
            shown = [f"{run} {value}" for (run, _), value in zip(lines, shown, strict=True)][:_NAMED]
        epoch = epochs.pop()
        early = ", which is before training" if name.startswith("knn_") and epoch == 0 else ""
        return f"{label} ({name}): only one value so far, {', '.join(shown)} at epoch {epoch:.4g}{early}."
    if len(found) == 1:
        return f"{label} ({name}): {formatted(name, found.pop())} throughout."
    return None


def missing(several: Sequence[RunFacts], names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield a group and a line for each kind of value that no run has recorded, with the reason if it is known.

    Args:
        several: the runs on the page.
        names: names of the recorded values.
    """
    config = several[0].config if len(several) == 1 else None
    if not any(name.startswith("knn_") for name in names):
        reason = ""
        if config is not None and config.data.validation is None:
            reason = ": the run has no validation set (data.validation)"
        elif config is not None and not config.eval.every_epochs:
            reason = ": it is turned off (eval.every_epochs=0)"
        yield EVALUATION, f"No kNN evaluation is on record{reason}."
    if not any("loss" in name or name == "gradient_norm" for name in names):
        yield LOSSES, "No training step is on record yet, so there are no losses, health values or speeds."
        return
    if "online_top1" not in names:
        yield EVALUATION, "No online classifier is on record: it needs labels of training images."
    if "z_rank" not in names:
        reason = "."
        if config is not None:
            every = config.metrics.health_every
            reason = f": they come every {every} steps." if every else ": metrics.health_every is 0."
        yield HEALTH, f"No effective ranks and gradient fractions are on record{reason}"
