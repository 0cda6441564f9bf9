"""`all4one data reshard`, `merge` and `split`: write new shards from indexed sets, without decoding the images."""

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated

import typer

from data_pipelines.cores import usable_cores
from launch.commands.data_output import Overwrite, ShardBytes, ShardSamples, Workers, progress, write_parts

if TYPE_CHECKING:
    from data_pipelines.build.builder import BuildOptions
    from data_pipelines.shards.shard_set import ShardSet
    from data_pipelines.sources.items import Source

Set = Annotated[str, typer.Argument(help="Folder or URL of indexed shards.", show_default=False)]
Out = Annotated[
    str, typer.Argument(help="Local folder for the new shards. It must be new or empty.", show_default=False)
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the random assignment of images to shards.")]
_FRACTION = "0.1"


def reshard(
    shards: Set,
    out: Out,
    shard_bytes: ShardBytes = 256_000_000,
    shard_samples: ShardSamples = 10_000,
    seed: Seed = 0,
    workers: Workers = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write an indexed set as shards of another size or in another order. The images keep their bytes, labels and keys.

    Samples that differ from the index are left out and listed in quarantine.jsonl. If it is interrupted, run the same
    command again to resume.

    Example: all4one data reshard data/photos/train data/photos-64mb/train --shard-bytes 64000000
    """
    from data_pipelines.build.rewrite import output_folder
    from data_pipelines.shards.shard_set import ShardSet

    opened = [ShardSet.open(shards)]
    folder = output_folder(out, opened)
    source = _listed(opened, workers)
    options = _options(shard_bytes, shard_samples, seed)
    write_parts({"": source}, folder, options, workers=workers, overwrite=overwrite)


def merge(
    sets: Annotated[
        list[str],
        typer.Argument(
            metavar="SETS", help="Folders or URLs of two or more indexed sets.", show_default=False
        ),
    ],
    out: Out,
    shard_bytes: ShardBytes = 256_000_000,
    shard_samples: ShardSamples = 10_000,
    seed: Seed = 0,
    workers: Workers = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write several indexed sets as one. Classes are joined by name. The images keep their bytes.

    Training on several sets needs no merge, because `data.train` takes a list of sets. Keys that occur more than once
    get a number. Samples that differ from the index are left out and listed in quarantine.jsonl. If it is interrupted,
    run the same command again to resume.

    Example: all4one data merge data/photos/train data/drawings/train data/both/train
    """
    from data_pipelines.build.rewrite import open_different, output_folder

    opened = open_different(sets)
    folder = output_folder(out, opened)
    source = _listed(opened, workers)
    options = _options(shard_bytes, shard_samples, seed)
    write_parts({"": source}, folder, options, workers=workers, overwrite=overwrite)


def split(
    shards: Set,
    out: Annotated[
        str,
        typer.Argument(
            help="Local folder for the new sets OUT/train and OUT/validation. They must be new or empty.",
            show_default=False,
        ),
    ],
    fraction: Annotated[
        str | None,
        typer.Option(
            help="Fraction of the samples for validation, such as 0.1 or 1/50. The classes keep their proportions. "
            f"Default: {_FRACTION}.",
        ),
    ] = None,
    per_class: Annotated[
        int | None,
        typer.Option(min=1, help="Number of samples of each class for validation, in place of --fraction."),
    ] = None,
    shard_bytes: ShardBytes = 256_000_000,
    shard_samples: ShardSamples = 10_000,
    seed: Annotated[
        int,
        typer.Option(
            min=0, help="Seed of the choice of samples, and of the random assignment of images to shards."
        ),
    ] = 0,
    workers: Workers = 0,
    overwrite: Overwrite = False,
) -> None:
    """Divide an indexed set into a training and a validation set. Each sample is in exactly one of them.

    Both sets have all class names in the same order. The images keep their bytes, labels and keys. Samples that differ
    from the index are left out and listed in quarantine.jsonl. If it is interrupted, run the same command again to
    resume.

    Example: all4one data split data/photos data/photos-split --fraction 0.1
    """
    from data_pipelines.build.rewrite import TRAIN, VALIDATION, output_folder
    from data_pipelines.build.rewrite import split as split_source
    from data_pipelines.shards.shard_set import ShardSet

    wanted = _fraction(fraction, per_class)
    opened = ShardSet.open(shards)
    folder = output_folder(out, [opened], (TRAIN, VALIDATION))
    parts = split_source(
        _listed([opened], workers), fraction=wanted, per_class=per_class, seed=seed, where=opened.folder
    )
    options = _options(shard_bytes, shard_samples, seed)
    write_parts(parts, folder, options, workers=workers, overwrite=overwrite)


def _listed(sets: Sequence["ShardSet"], workers: int) -> "Source":
    from data_pipelines.sources.indexed_sets import list_sets

    with progress("keys of samples", sum(map(len, sets))) as report:
        return list_sets(sets, workers=workers or usable_cores(), report=report)


def _options(shard_bytes: int, shard_samples: int, seed: int) -> "BuildOptions":
    from data_pipelines.build.builder import BuildOptions

    return BuildOptions(shard_bytes, shard_samples, seed, decode=False)


def _fraction(text: str | None, per_class: int | None) -> Fraction | None:
    """Return the exact fraction of the samples that is meant, or None with a number of each class."""
    from data_pipelines.errors import UserError

    if per_class is not None:
        if text is not None:
            raise UserError("--fraction and --per-class exclude each other", fix="leave out one of them")
        return None
    try:
        # The text is the decimal number that the user gave: 0.1 is a tenth.
        fraction = Fraction(_FRACTION if text is None else text)
    except (ValueError, ZeroDivisionError):
        fraction = Fraction(0)
    if not 0 < fraction < 1:
        raise UserError(
            f"{text!r} is not a fraction between 0 and 1",
            where="--fraction",
            fix=f"give the validation fraction, such as --fraction {_FRACTION}",
        )
    return fraction
