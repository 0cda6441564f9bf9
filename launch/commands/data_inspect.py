"""`all4one data show`, `stats` and `duplicates`: inspect datasets before training on them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_pipelines.formatting import duration
from launch.local.imports import collector_paused

if TYPE_CHECKING:
    from data_pipelines.inspect.statistics import Statistics
    from data_pipelines.settings import DataSettings

_LISTED = 20
"""Number of images that `duplicates` lists."""
Shards = Annotated[str, typer.Argument(help="Folder of indexed shards.", show_default=False)]
Recipe = Annotated[
    str,
    typer.Option(help="Recipe whose views and threads are used: a path, or the name of a shipped recipe."),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that override the recipe.")
]


def show(
    shards: Shards,
    overrides: Overrides = None,
    recipe: Recipe = "base",
    out: Annotated[Path, typer.Option(help="Output file: .png, .pdf or .svg.")] = Path("views.png"),
    images: Annotated[int, typer.Option(min=1, max=64, help="Number of images. Each fills one row.")] = 6,
    epoch: Annotated[
        int, typer.Option(min=0, help="Epoch whose sample order and augmentations are shown.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the run.")] = 0,
) -> None:
    """Draw images beside their views, with the augmentation parameters of each. Try a preset with data.views=weak.

    Example: all4one data show data/cifar10/train data.views=byol --out byol.png
    """
    from data_pipelines.inspect.gallery import draw
    from data_pipelines.shards.shard_set import ShardSet

    settings = _data_settings(recipe, overrides)
    for reason in draw(ShardSet.open(shards), settings, out, seed=seed, epoch=epoch, images=images):
        typer.echo(f"skipped {reason}", err=True)
    typer.echo(f"wrote {out}")


def stats(
    shards: Shards,
    overrides: Overrides = None,
    recipe: Recipe = "base",
    measure: Annotated[bool, typer.Option(help="Measure how fast this machine makes the views.")] = True,
) -> None:
    """Print the sizes, aspect ratios, classes, bytes and colors of a dataset, and the time to load one epoch.

    Example: all4one data stats data/cifar10/train --recipe cifar10
    """
    from data_pipelines.inspect.statistics import pixel_statistics, preparing_speed, statistics, threads_of
    from data_pipelines.shards.shard_set import ShardSet

    settings = _data_settings(recipe, overrides)
    opened = ShardSet.open(shards)
    facts = statistics(opened)
    _print_facts(shards, facts)
    if facts.per_class.size:
        _print_classes(facts, opened.classes)
    colors = pixel_statistics(opened)
    mean, std = (",".join(f"{value:.4f}" for value in values) for values in (colors.mean, colors.std))
    typer.echo(f"normalization, from {colors.images:,} images: data.mean=[{mean}] data.std=[{std}]")
    if measure:
        speed, threads = preparing_speed(opened, settings), threads_of(settings)
        typer.echo(
            f"{len(settings.views)} views, the first of {settings.views[0].size} px: {speed:,.0f} images/s "
            f"with {threads} threads, {duration(facts.samples / speed)} for an epoch on this machine"
        )


def duplicates(
    sets: Annotated[
        list[str], typer.Argument(metavar="SHARDS...", help="Folders of indexed shards.", show_default=False)
    ],
    every: Annotated[bool, typer.Option("--all", help="List all images, and not only the first 20.")] = False,
) -> None:
    """List images that occur more than once, by the content of their files. Only likely ones are read.

    With several datasets, such as a training and a validation set, images of more than one dataset are listed, and the
    exit code is 1 if there are any. With one dataset the same holds for images that occur there twice.

    Example: all4one data duplicates data/photos/train data/photos/validation
    """
    from data_pipelines.inspect.duplicates import find_duplicates, likely_duplicates
    from data_pipelines.progress import ProgressBars
    from data_pipelines.shards.shard_set import ShardSet

    opened = [ShardSet.open(place) for place in sets]
    likely = likely_duplicates(opened)
    with ProgressBars(visible=True).counter("samples that may be equal", len(likely)) as report:
        found = find_duplicates(opened, likely, report)
    for number, (place, shards) in enumerate(zip(sets, opened, strict=True)):
        within = len(found.within(number))
        typer.echo(f"{place}: {len(shards):,} samples, {within:,} images occur more than once")
    listed = found.between() if len(sets) > 1 else found.groups
    for group in listed if every else listed[:_LISTED]:
        typer.echo(" = ".join(str(opened[one.number].location(one.sample)) for one in group))
    if len(listed) > _LISTED and not every:
        typer.echo(f"… and {len(listed) - _LISTED:,} more, which --all lists")
    for one, reason in found.bad:
        typer.echo(f"skipped {opened[one.number].location(one.sample)}: {reason}", err=True)
    if len(sets) > 1:
        typer.echo(f"{len(listed):,} images are in more than one of these datasets")
    if listed:
        raise typer.Exit(1)


def _data_settings(recipe: str, overrides: list[str] | None) -> "DataSettings":
    """Return the data settings of a recipe. The number of views is not checked against the recipe's method."""
    with collector_paused():
        from trainer.config.schema import data_settings

    return data_settings(recipe, overrides or [])


def _print_facts(name: str, facts: "Statistics") -> None:
    from rich.table import Table

    from data_pipelines.console import plain_console
    from data_pipelines.inspect.statistics import QUANTILES

    typer.echo(
        f"{name}: {facts.samples:,} samples in {facts.shards:,} shards, {facts.image_bytes:,} bytes of images"
    )
    heads = [
        "lowest" if q == 0 else "highest" if q == 1 else "median" if q == 0.5 else f"{q:.0%}"
        for q in QUANTILES
    ]
    table = Table("", *heads)
    for what, values in facts.quantiles.items():
        digits = 2 if what == "aspect" else 0
        table.add_row(what, *(f"{value:,.{digits}f}" for value in values))
    plain_console().print(table)


def _print_classes(facts: "Statistics", classes: tuple[str, ...]) -> None:
    """Print the class histogram. If there are many classes, print only the rarest and the most frequent."""
    from rich.table import Table

    from data_pipelines.console import plain_console

    counts = facts.per_class
    table = Table("class", "samples", "", title=f"{len(classes):,} classes", title_justify="left")
    order = counts.argsort(kind="stable")[::-1].tolist()
    shown = order if len(order) <= 20 else [*order[:5], None, *order[-5:]]
    for label in shown:
        if label is None:
            table.add_row("…", "", "")
        else:
            table.add_row(
                classes[label], f"{counts[label]:,}", "█" * round(30 * counts[label] / max(1, counts.max()))
            )
    if facts.unlabeled:
        table.add_row("without a label", f"{facts.unlabeled:,}", "")
    plain_console().print(table)
