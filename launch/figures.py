"""Figures as the commands and benchmarks draw them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_pipelines.files import replacing


@contextmanager
def drawn(path: Path, rows: int = 1, columns: int = 1, **options: Any) -> Iterator[list[Any]]:
    """Axes to draw on, in the order of reading, which are written as a PNG, all or nothing, at the end.

    Args:
        path: the file.
        rows: of axes.
        columns: of axes.
        options: of `pyplot.subplots`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, columns, squeeze=False, layout="constrained", **options)
    try:
        yield list(axes.flat)
        for one in axes.flat:
            one.spines[["top", "right"]].set_visible(False)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120)
    finally:
        pyplot.close(figure)
