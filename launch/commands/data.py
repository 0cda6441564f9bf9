"""`all4one data`: build indexed shards from raw images, verify them and inspect them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from data_pipelines.cores import usable_cores
from launch.commands.data_inspect import duplicates, show, stats
from launch.commands.data_output import (
    Overwrite,
    ShardBytes,
    ShardSamples,
    Workers,
    progress,
    summary,
    warn,
    write_parts,
)
from launch.commands.data_rewrite import merge, reshard, split

app = typer.Typer(
    help="Build, index, rewrite, verify and inspect datasets in shards.\n\n"
    "Example: all4one data build torchvision:cifar10 data/cifar10",
    no_args_is_help=True,
)
app.command()(reshard)
app.command()(merge)
app.command()(split)
app.command()(show)
app.command()(stats)
app.command()(duplicates)

Folder = Annotated[Path, typer.Argument(help="Folder that holds the shards.", show_default=False)]
Classes = Annotated[
    Path | None,
    typer.Option(
        help="File with the class names in the order of their numbers, one per line. All labels must be among them."
    ),
]
NoLabels = Annotated[bool, typer.Option("--no-labels", help="Read no labels. The set has no classes.")]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        help="Name of the Parquet or CSV column, or of the field in .json, that holds the label. Default: the usual "
        "names, such as `label`."
    ),
]


@app.command()
def build(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder, tar or zip of class folders or of images, ILSVRC2012_img_train.tar, WebDataset "
            "shards, folder of tars with one class each, Parquet file or folder of them, Hugging Face repository, "
            "torchvision:NAME such as torchvision:cifar10, or `digits`.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Argument(help="Folder for the shards. It must be new or empty.", show_default=False)
    ],
    shard_bytes: ShardBytes = 256_000_000,
    shard_samples: ShardSamples = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random assignment of images to shards.")] = 0,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Labels of the images, in place of class folders: a text file of lines FILE CLASS, or a CSV file. For "
            "ILSVRC2012_img_val.tar: ILSVRC2012_devkit_t12.tar.gz or the unpacked "
            "ILSVRC2012_validation_ground_truth.txt."
        ),
    ] = None,
    no_labels: NoLabels = False,
    label_column: LabelColumn = None,
    classes: Classes = None,
    numeric_classes: Annotated[
        bool, typer.Option("--numeric-classes", help="Class names are numbers. Sort them by their values.")
    ] = False,
    root: Annotated[
        Path, typer.Option(help="Folder where torchvision stores its datasets and downloads them to.")
    ] = Path("data/torchvision"),
    download: Annotated[bool, typer.Option(help="Download a torchvision dataset that is missing.")] = True,
    resize_shorter: Annotated[
        int | None,
        typer.Option(
            min=8, help="Resize larger images to this shorter side, in pixels, and store them as JPEG."
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            help="JPEG quality to encode all images again with. Default: resized images use 90, and all other images "
            "keep their bytes.",
        ),
    ] = None,
    values: Annotated[
        str | None,
        typer.Option(
            "--range",
            metavar="LOW,HIGH",
            help="The values of 16-bit images that become black and white, such as 0,4095 for images of 12-bit "
            "cameras. The images are stored with 8 bits. Default: 0,65535.",
        ),
    ] = None,
    decode: Annotated[
        bool, typer.Option(help="Decode each image. Otherwise only its header and end marker are checked.")
    ] = True,
    workers: Workers = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write images as WebDataset shards with an index. If it is interrupted, run the same command again to resume.

    Example: all4one data build photos data/photos --resize-shorter 256
    """
    from data_pipelines.build.builder import BuildOptions
    from data_pipelines.imaging.recode import Recoding
    from data_pipelines.sources.image_sources import LabelOptions
    from data_pipelines.sources.kinds import Torchvision, open_parts

    label_options = LabelOptions(labels, not no_labels, label_column, classes, numeric_classes)
    options = BuildOptions(
        shard_bytes, shard_samples, seed, decode, Recoding(resize_shorter, quality, _range(values))
    )
    with _readable_in_place(source, out) as readable_source:
        parts = open_parts(readable_source, label_options, Torchvision(root, download))
        write_parts(parts, out, options, workers=workers, overwrite=overwrite)


@app.command()
def index(
    folder: Folder,
    decode: Annotated[
        bool, typer.Option(help="Decode each image. Otherwise only its header and end marker are checked.")
    ] = False,
    no_labels: NoLabels = False,
    label_column: LabelColumn = None,
    classes: Classes = None,
    workers: Workers = 0,
) -> None:
    """Index shards that were built elsewhere, or index shards of all4one again. They may lie in subfolders.

    Example: all4one data index data/photos --classes classes.txt
    """
    from data_pipelines.sources.existing_shards import index_folder
    from data_pipelines.sources.shard_samples import shard_paths

    with progress(f"shards of {folder}", len(shard_paths(folder))) as report:
        record = index_folder(
            folder,
            decode=decode,
            workers=workers or usable_cores(),
            classes=classes,
            labels=not no_labels,
            label_field=label_column,
            report=report,
            warn=warn,
        )
    summary(folder, record)


@app.command()
def verify(
    folder: Folder,
    decode: Annotated[bool, typer.Option(help="Also decode each image.")] = False,
    workers: Workers = 0,
) -> None:
    """Read every sample and compare it with the index. The exit code is 1 if any sample differs.

    Example: all4one data verify data/cifar10/train --decode
    """
    from rich.table import Table

    from data_pipelines.console import plain_console
    from data_pipelines.inspect.verify import verify as verify_shards
    from data_pipelines.shards.index import read_record

    with progress(f"shards of {folder}", len(read_record(folder).shards)) as report:
        shards = verify_shards(folder, decode=decode, workers=workers or usable_cores(), report=report)
    table = Table("shard", "samples", "bad")
    for shard in shards:
        table.add_row(shard.name, f"{shard.samples:,}", str(len(shard.bad)))
    bad = [entry for shard in shards for entry in shard.bad]
    console = plain_console()
    console.print(table)
    for key, reason in bad:
        console.print(f"{key}: {reason}")
    console.print(f"{sum(shard.samples for shard in shards):,} samples, {len(bad)} bad")
    if bad:
        raise typer.Exit(1)


@contextmanager
def _readable_in_place(source: str, out: Path) -> Iterator[str]:
    """Return a source whose images can be read by their position: itself, or an unpacked copy of a compressed tar."""
    from data_pipelines.sources.compressed_tars import can_unpack, unpacked

    path = Path(source)
    if not (path.is_file() and can_unpack(path)):
        yield source
        return
    typer.echo(f"unpacking {source}")
    with unpacked(path, out) as tar:
        yield str(tar)


def _range(text: str | None) -> tuple[int, int] | None:
    from data_pipelines.errors import UserError
    from data_pipelines.imaging.depth import FULL

    if text is None:
        return None
    low, _, high = text.partition(",")
    if not (low.isdecimal() and high.isdecimal() and int(low) < int(high) <= FULL):
        raise UserError(
            f"{text!r} are not two values from 0 to {FULL}, the lower first",
            where="--range",
            fix="give two numbers, such as --range 0,4095",
        )
    return int(low), int(high)
