"""`all4one report`: write a run or a study as an HTML page."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from launch.local.imports import collector_paused


class ProjectionMethod(StrEnum):
    """How features are projected to two dimensions. The values are keys of `trainer.visualization.projection`."""

    UMAP = "umap"
    TSNE = "t-sne"
    PCA = "pca"


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|STUDY|FOLDER...",
            show_default=False,
            help="Folder of a run, of a study, or of several runs. Several runs are compared side by side.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Output file. Default: report.html in the folder, or in the current folder for several.",
        ),
    ] = None,
    pictures: Annotated[
        bool,
        typer.Option(help="Draw views, neighbors and a feature map. They need the run's images and weights."),
    ] = True,
    way: Annotated[
        ProjectionMethod | None,
        typer.Option(
            "--map", help="Projection of the feature map. Default: umap if it is installed, else t-sne."
        ),
    ] = None,
) -> None:
    """Write an HTML report of a run, a study or several runs. The page is one file and needs no network.

    The report of one run shows curves, views, neighbors from its queue, a feature map, attempts and settings. Several
    runs are compared side by side, without images.

    Example: all4one report runs/cifar10 runs/cifar10_byol --out both.html
    """
    with collector_paused():
        from launch.report.sections import write_report
    written = write_report(paths, out, pictures=pictures, how=way and way.value)
    typer.echo(f"wrote {written}: {written.stat().st_size / 1e6:.1f} MB")
