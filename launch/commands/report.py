"""The command `all4one report`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ProjectionMethod(StrEnum):
    """How features are laid out on a map; names that `trainer.visualization.projection` takes."""

    UMAP = "umap"
    TSNE = "t-sne"
    PCA = "pca"


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|STUDY|FOLDER...",
            show_default=False,
            help="A run's folder, a study's, or one that holds runs; several are put side by side.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The page; report.html in the folder if not given, here for several."
        ),
    ] = None,
    pictures: Annotated[
        bool,
        typer.Option(help="Views, neighbors and a map of features: they take the run's images and weights."),
    ] = True,
    way: Annotated[
        ProjectionMethod | None,
        typer.Option(
            "--map", help="How features are laid out; umap where it is installed, else t-sne, if not given."
        ),
    ] = None,
) -> None:
    """Write what a run, a study or several runs did as one HTML page, which needs no network and no other file.

    For one run: curves, views, neighbors from its queue, a map of its features, attempts, settings. Several runs are
    put side by side, without images.
    """
    from launch.report.sections import write_report

    written = write_report(paths, out, pictures=pictures, how=way and way.value)
    typer.echo(f"wrote {written}: {written.stat().st_size / 1e6:.1f} MB")
