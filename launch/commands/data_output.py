"""What the commands that write datasets share: their options, progress, warnings and summary."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_pipelines.cores import usable_cores

if TYPE_CHECKING:
    from data_pipelines.build.builder import BuildOptions
    from data_pipelines.shards.index import DatasetRecord
    from data_pipelines.sources.items import Source

ShardBytes = Annotated[int, typer.Option(min=1_000, help="Maximum size of a shard in bytes.")]
ShardSamples = Annotated[int, typer.Option(min=1, help="Maximum number of samples in a shard.")]
Workers = Annotated[int, typer.Option(min=0, help="Number of worker processes. 0: one for each core.")]
Overwrite = Annotated[bool, typer.Option(help="Replace an existing dataset that all4one built.")]


def write_parts(
    parts: Mapping[str, "Source"], out: Path, options: "BuildOptions", *, workers: int, overwrite: bool
) -> None:
    """Write each part of a source to its subfolder of `out`, and print warnings and a summary of each.

    The notes of a part stay until all are done, so that the same command resumes after an interruption.

    Args:
        parts: sources by the name of their subfolder. An empty name is `out` itself.
        out: folder of the output.
        options: options that decide the content of the shards.
        workers: number of worker processes. 0: one for each core.
        overwrite: whether to replace existing datasets.
    """
    from data_pipelines.build.builder import build, drop_notes

    for part in parts.values():
        for note in part.notes:
            warn(note)
    for name, part in parts.items():
        folder = out / name
        with progress(f"images to {folder}", len(part.items)) as report:
            record = build(
                part,
                folder,
                options,
                workers=workers or usable_cores(),
                overwrite=overwrite,
                keep_notes=True,
                report=report,
                warn=warn,
            )
        summary(folder, record)
    for name in parts:
        drop_notes(out / name)


def warn(text: str) -> None:
    """Print a warning."""
    typer.echo(f"warning: {text}", err=True)


def progress(what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show a progress bar on a terminal, and nothing elsewhere."""
    from data_pipelines.progress import ProgressBars

    return ProgressBars(visible=True).counter(what, total)


def summary(folder: Path, record: "DatasetRecord") -> None:
    """Print the numbers of a dataset, and why samples were left out."""
    import numpy as np
    from rich.table import Table

    from data_pipelines.console import plain_console
    from data_pipelines.formatting import readable
    from data_pipelines.shards.index import read_index, read_quarantine

    unlabeled = int(np.count_nonzero(read_index(folder, record)["label"] < 0))
    table = Table(show_header=False, title=readable(folder), title_justify="left")
    rows: Iterable[tuple[str, str]] = (
        ("samples", f"{record.samples:,}"),
        ("classes", f"{len(record.classes):,}"),
        ("shards", f"{len(record.shards):,}"),
        ("bytes", f"{sum(shard.size for shard in record.shards):,}"),
        ("unlabeled", f"{unlabeled:,}"),
        ("quarantined", f"{record.quarantined:,}"),
    )
    for row in rows:
        table.add_row(*row)
    for reason, count in Counter(entry["reason"] for entry in read_quarantine(folder)).most_common():
        table.add_row(f"  {reason}", f"{count:,}")
    plain_console().print(table)
