"""Sets of tiny noisy images whose classes differ in brightness."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.build.builder import BuildOptions, build
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.sources.image_sources import Item, Source

VIEW = ViewSettings(size=16)
DATA = DataSettings(executor="opencv", views=(VIEW, VIEW), decode_threads=1, eval_resize=16)


def make_set(folder: Path, count: int = 20, classes: Sequence[str] = ("dark", "light")) -> Path:
    """Noise of 16 x 16 pixels, brighter in the second class; without classes, without labels."""
    rng = np.random.default_rng(count)
    items = []
    for number in range(count):
        label = number % len(classes) if classes else -1
        darkest = min(100 * max(label, 0), 155)
        file = io.BytesIO()
        pixels = rng.integers(darkest, darkest + 100, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        items.append(Item(f"image-{number:03d}", file.getvalue(), label))
    build(Source(items, classes), folder, BuildOptions(shard_samples=8))
    return folder
