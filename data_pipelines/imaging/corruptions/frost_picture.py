"""A picture of ice on a window, drawn by rules. ImageNet-C has photographs instead, which are not distributed here."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipelines.imaging.corruptions.random_fields import cloud

_PICTURES = 6
_SIDE = 384
"""Side of a picture, in pixels."""
_CUT = 256
"""Side of the part that covers the shorter side of an image, in pixels."""
_CRYSTALS = 40
_PAIRS = 14
"""Pairs of branches of a crystal, and of twigs of a branch."""
_SHIFT = 4  # fractional bits of the drawing's coordinates
_TINT = np.array([0.86, 0.94, 1.0], np.float32)


def frost_picture(height: int, width: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Return a random part of one of six pictures of frost, scaled to `[H, W, 3]`, in [0, 1]."""
    picture = _drawn(int(random.integers(_PICTURES)))
    scale = min(_CUT / min(height, width), _SIDE / max(height, width))
    cut_height, cut_width = max(1, int(height * scale)), max(1, int(width * scale))
    top, left = random.integers(_SIDE - cut_height + 1), random.integers(_SIDE - cut_width + 1)
    part = picture[top : top + cut_height, left : left + cut_width]
    if random.random() < 0.5:
        part = np.ascontiguousarray(part[:, ::-1])
    scaled: NDArray[np.float32] = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
    return scaled


@lru_cache
def _drawn(number: int) -> NDArray[np.float32]:
    """Draw frost `[384, 384, 3]` in [0, 1]: fern-like crystals that grow from the edges, on an icy haze."""
    random = np.random.Generator(np.random.Philox(key=number))
    ridges = 1 - np.abs(2 * cloud(_SIDE, _SIDE, 1.6, random) - 1)  # [384, 384]
    haze = cloud(_SIDE, _SIDE, 2.2, random)
    crystals = _crystals(random)
    glow = cv2.GaussianBlur(crystals, (0, 0), 4)
    ice = 0.1 + 0.35 * ridges**4 + 0.25 * haze + 0.45 * crystals + 0.45 * glow
    return (np.clip(ice, 0, 1)[:, :, None] * _TINT).astype(np.float32)


def _crystals(random: np.random.Generator) -> NDArray[np.float32]:
    """Draw stems, branches at 60 degrees to them, and twigs at 60 degrees to the branches: `[384, 384]` in [0, 1]."""
    along, jitter = random.random((2, _CRYSTALS))
    length = _SIDE * (0.15 + 0.45 * random.random(_CRYSTALS))
    edge = random.integers(4, size=_CRYSTALS)
    place = along * _SIDE
    start = np.stack([place, np.zeros(_CRYSTALS)], axis=1)  # [C, 2], on the upper edge
    heading = np.pi / 2 + (jitter - 0.5) * 1.6  # [C], inwards from there
    start, heading = _turned(start, edge), heading + edge * np.pi / 2
    stems = (start, heading, length)
    branches = _branches(*stems, 0.35)
    twigs = _branches(*branches, 0.3)
    canvas = np.zeros((_SIDE, _SIDE), np.uint8)
    _draw(canvas, *twigs, light=120, thickness=1)
    _draw(canvas, *branches, light=185, thickness=1)
    _draw(canvas, *stems, light=255, thickness=2)
    return canvas.astype(np.float32) / np.float32(255)


def _turned(points: NDArray[np.float64], quarters: NDArray[np.int64]) -> NDArray[np.float64]:
    """Turn points `[C, 2]` about the center of the drawing by quarters of a circle `[C]`."""
    angle = quarters * np.pi / 2
    x, y = (points - _SIDE / 2).T
    turned = np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=1)
    return turned + _SIDE / 2


def _branches(
    start: NDArray[np.float64], heading: NDArray[np.float64], length: NDArray[np.float64], share: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return start, heading and length of the branches of lines `[N]`: pairs at regular places, shorter to the tip."""
    places = (np.arange(_PAIRS) + 0.5) / _PAIRS  # [P]
    direction = np.stack([np.cos(heading), np.sin(heading)], axis=1)  # [N, 2]
    knots = start[:, None] + (length[:, None] * places)[:, :, None] * direction[:, None]  # [N, P, 2]
    lengths = share * length[:, None] * (1 - places)  # [N, P]
    sides = heading[:, None, None] + np.array([-1, 1]) * np.pi / 3  # [N, 1, 2]
    count = len(start) * _PAIRS * 2
    return (
        np.repeat(knots.reshape(-1, 2), 2, axis=0),
        np.broadcast_to(sides, (len(start), _PAIRS, 2)).reshape(count),
        np.repeat(lengths.reshape(-1), 2),
    )


def _draw(
    canvas: NDArray[np.uint8],
    start: NDArray[np.float64],
    heading: NDArray[np.float64],
    length: NDArray[np.float64],
    *,
    light: int,
    thickness: int,
) -> None:
    """Draw the lines `[N]` that are long enough to be seen."""
    seen = length > 2
    end = start + length[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    lines = np.rint(np.stack([start, end], axis=1)[seen] * 2**_SHIFT).astype(np.int32)  # [n, 2, 2]
    cv2.polylines(canvas, list(lines), False, light, thickness, cv2.LINE_AA, _SHIFT)
