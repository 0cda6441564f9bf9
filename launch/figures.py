"""Figures of the commands and benchmarks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from data_pipelines.files import replacing


@contextmanager
def drawn(path: Path, rows: int = 1, columns: int = 1, **options: Any) -> Iterator[list[Any]]:
    """Yield axes in reading order, and then write the figure as a PNG, atomically.

    Args:
        path: the output file.
        rows: rows of axes.
        columns: columns of axes.
        options: arguments of `pyplot.subplots`.
    """
    with (
        replacing(path, several=True) as temporary,
        drawn_into(temporary, "png", rows, columns, **options) as axes,
    ):
        yield axes


@contextmanager
def drawn_into(
    target: Path | IO[bytes], form: str, rows: int = 1, columns: int = 1, *, dpi: float = 120, **options: Any
) -> Iterator[list[Any]]:
    """Yield axes as `drawn` does, and write to a path directly or to memory, as `png` or `svg`.

    The same drawing gives the same bytes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.hashsalt": form, "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(rows, columns, squeeze=False, layout="constrained", **options)
        try:
            yield list(axes.flat)
            for one in axes.flat:
                one.spines[["top", "right"]].set_visible(False)
            figure.savefig(target, format=form, dpi=dpi, metadata={"Date": None} if form == "svg" else None)
        finally:
            pyplot.close(figure)
