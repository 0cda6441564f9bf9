"""A figure of images beside the principal components of their patch features and, for ViTs, their attention maps."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipelines.errors import UserError
from data_pipelines.files import replacing, require_writable

_CELL = 1.6
"""Side of a picture in inches."""
_ENDINGS = (".png", ".pdf", ".svg", ".jpg")
_TAILS = (0.01, 0.99)
"""Quantiles of a component that become black and full color."""


class PatchPictures(NamedTuple):
    """What the figure shows of B images."""

    names: list[str]
    images: NDArray[np.float32]
    """`[B, S, S, 3]` in [0, 1]."""
    colors: NDArray[np.float32]
    """`[B, h, w, 3]` in [0, 1]."""
    attention: NDArray[np.float32] | None
    """`[B, heads, h, w]`, weights of a softmax. None: the model has no class token."""


def component_colors(features: Tensor) -> Tensor:
    """Return the first three principal components of the patch features of all images as red, green and blue.

    Patches of one color look alike to the backbone, also across images (Oquab et al. 2023, arXiv 2304.07193, figure 1,
    without their mask of the foreground). The sign of a component is that of its largest loading, so that the colors
    depend on the features alone.

    Args:
        features: `[B, h, w, F]`.

    Returns:
        `[B, h, w, 3]` in [0, 1]. Each component is scaled by its quantiles. Components beyond the rank are 0.
    """
    rows = features.reshape(-1, features.shape[-1]).double().cpu()  # [B * h * w, F]
    centered = rows - rows.mean(0)
    variances, directions = torch.linalg.eigh(centered.T @ centered / len(rows))
    count = min(3, len(variances))
    variances, directions = variances.flip(0)[:count], directions.flip(1)[:, :count]  # [F, count]
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    values = centered @ (directions * largest.sign())  # [B * h * w, count]
    low, high = torch.quantile(values, torch.tensor(_TAILS, dtype=torch.float64), dim=0)
    noise = 1e-12 * variances[0] if len(variances) else 0.0
    found = (variances > noise) & (high > low)
    scaled = ((values - low) / torch.where(found, high - low, 1.0)).clamp(0, 1) * found
    colors = torch.zeros(len(rows), 3, dtype=torch.float64)
    colors[:, :count] = scaled
    return colors.reshape(*features.shape[:3], 3).float()


def require_picture_file(path: Path) -> None:
    """Create the folder of a figure. Raise a UserError if the figure cannot be written there."""
    if path.suffix not in _ENDINGS:
        raise UserError(
            f"a picture must end in {', '.join(_ENDINGS[:-1])} or {_ENDINGS[-1]}",
            where=path,
            fix="choose another file with --out",
        )
    require_writable(path)


def save_figure(pictures: PatchPictures, out: Path) -> None:
    """Write the figure: a row for each image.

    Args:
        pictures: what it shows.
        out: its file, for which `require_picture_file` has passed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    heads = 0 if pictures.attention is None else pictures.attention.shape[1]
    columns = 2 + heads
    figure, axes = pyplot.subplots(
        len(pictures.names),
        columns,
        figsize=(_CELL * columns, 1.12 * _CELL * len(pictures.names)),
        squeeze=False,
        layout="constrained",
    )
    for cell, title in zip(axes[0], ["image", "patches", *(f"head {n}" for n in range(heads))], strict=True):
        cell.set_title(title, fontsize=7)
    for row, cells in enumerate(axes):
        cells[0].imshow(pictures.images[row])
        cells[0].set_xlabel(pictures.names[row], fontsize=5)
        cells[1].imshow(pictures.colors[row])
        if pictures.attention is not None:
            for cell, head in zip(cells[2:], pictures.attention[row], strict=True):
                cell.imshow(head, cmap="viridis", vmin=0)
        for cell in cells:
            cell.set(xticks=[], yticks=[])
    with replacing(out) as temporary:
        figure.savefig(temporary, dpi=140, format=out.suffix.removeprefix("."))
    pyplot.close(figure)
