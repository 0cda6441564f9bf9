"""Do both executors make the same pixels, and those of the documented formulas?

    python benchmarks/executors.py [--data FOLDER] [--images 64] [--json FILE]

Takes real JPEGs (`imagenet1k-sample/ILSVRC2012_img_train.tar` in FOLDER or in ALL4ONE_TEST_DATA) through the executors
`opencv` and `dali` with the same numbers: each operation by itself, crops of all sizes, the whole chain. Prints mean
absolute differences in levels of 255, between the executors and of each against a plain reference: the color matrix of
`AugmentationParams.color_matrix`, `min(x, 255 - x)`, a mirrored axis, a Gaussian kernel over reflected edges, Pillow's
antialiased bicubic resize. Exits with 1 where the executors differ by more than 1 level, or 3 where images are resized.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import correlate1d

from data_pipelines.imaging.augment import AugmentationParams, center_crop_params, view_numbers
from data_pipelines.imaging.backend import AugmentationBackend
from data_pipelines.imaging.dali import DaliBackend
from data_pipelines.imaging.dali_graph import ViewGraph
from data_pipelines.imaging.images import decode_rgb, read_header
from data_pipelines.imaging.opencv import OpenCVBackend
from data_pipelines.settings import ViewSettings
from data_pipelines.sources.image_sources import open_source

SIZE, SMALL = 224, 96
OPERATIONS: dict[str, dict[str, float | bool]] = {
    "none": {},
    "brightness 1.4": {"brightness": 1.4},
    "contrast 0.6": {"contrast": 0.6},
    "saturation 1.2": {"saturation": 1.2},
    "hue 0.1": {"hue": 0.1},
    "all color": {"brightness": 0.8, "contrast": 1.3, "saturation": 0.8, "hue": -0.1},
    "gray": {"saturation": 0.0},
    "flip": {"flip": True},
    "solarize": {"solarize": True},
    "blur 0.5": {"blur_sigma": 0.5},
    "blur 2": {"blur_sigma": 2.0},
}


def sizes(images: Sequence[bytes]) -> NDArray[np.int64]:
    return np.array([[header.height, header.width] for header in map(read_header, images)])


def corner(images: Sequence[bytes], **changes: float | bool) -> AugmentationParams:
    """The top left corner of each image at its own scale, with some changes."""
    count = len(images)
    numbers = center_crop_params(sizes(images), resize=SIZE, crop=SIZE)
    numbers = numbers._replace(box=np.tile([0, 0, SIZE, SIZE], (count, 1)))
    types = {"flip": np.bool_, "solarize": np.bool_}
    arrays: dict[str, Any] = {
        name: np.full(count, value, types.get(name, np.float32)) for name, value in changes.items()
    }
    return numbers._replace(**arrays)


def drawn(images: Sequence[bytes], view: ViewSettings) -> AugmentationParams:
    return view_numbers(view, sizes(images), seed=0, epoch=0, samples=np.arange(len(images)), view=0)


def reference(image: NDArray[np.uint8], numbers: AugmentationParams, row: int) -> NDArray[np.float64]:
    """One view `[S, S, 3]` by the formulas, each step rounded to whole levels."""
    y, x, h, w = (int(v) for v in numbers.box[row])
    size = (numbers.size, numbers.size)
    pixels = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, (x, y, x + w, y + h)))
    matrix = numbers.color_matrix()[row]
    out = levels(pixels @ matrix[:, :3].T + matrix[:, 3])
    if (sigma := float(numbers.blur_sigma[row])) > 0:
        offsets = np.arange(-ceil(3 * sigma), ceil(3 * sigma) + 1)
        kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
        for axis in (0, 1):
            out = correlate1d(out, kernel / kernel.sum(), axis=axis, mode="mirror")
        out = levels(out)
    if numbers.solarize[row]:
        out = np.minimum(out, 255 - out)
    return out[:, ::-1] if numbers.flip[row] else out


def levels(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(np.rint(values), 0, 255)


def run(
    executor: AugmentationBackend, images: Sequence[bytes], numbers: AugmentationParams
) -> NDArray[np.float64]:
    """Levels `[B, S, S, 3]`."""
    (view,) = executor.begin(images, [numbers])()
    return view.permute(0, 2, 3, 1).double().numpy() * 255


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("ALL4ONE_TEST_DATA", "../shared/data"))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    source = Path(args.data) / "imagenet1k-sample/ILSVRC2012_img_train.tar"
    if not source.is_file():
        parser.error(f"{source} is not there: name the folder of the images with --data")
    encoded = [item.read() for item in open_source(source).items]
    # a corner of the view's size must lie in each
    images = [data for data in encoded if sizes([data]).min() >= SIZE][: args.images]
    return compare(images, args.json)


def compare(images: list[bytes], path: Path | None) -> int:
    large = ViewSettings(size=SIZE, blur_prob=0.5, solarize_prob=0.2)
    small = large.model_copy(update={"size": SMALL})
    plain = {"jitter": 0, "gray": 0, "blur": 0, "solarize": 0, "flip": 0}
    cases = {name: (corner(images, **changes), 1) for name, changes in OPERATIONS.items()}
    cases |= {
        f"crop to {SIZE}": (drawn(images, large.model_copy(update=plain)), 3),
        f"crop to {SMALL}": (drawn(images, small.model_copy(update=plain)), 3),
        f"whole chain, {SIZE}": (drawn(images, large), 3),
        f"whole chain, {SMALL}": (drawn(images, small), 3),
    }
    decoded = [decode_rgb(data) for data in images]
    results: dict[str, dict[str, Any]] = {}
    print(f"{'':<20}{'opencv - dali':>16}{'opencv - ref':>16}{'dali - ref':>16}{'bound':>8}")
    with ThreadPoolExecutor(2) as pool:
        for name, (numbers, bound) in cases.items():
            opencv, dali = (
                run(executor, images, numbers) for executor in executors(pool, numbers.size, len(images))
            )
            wanted = np.stack([reference(image, numbers, row) for row, image in enumerate(decoded)])
            between, ours, theirs = (
                float(np.abs(a - b).mean()) for a, b in ((opencv, dali), (opencv, wanted), (dali, wanted))
            )
            reached = between <= bound
            print(
                f"{name:<20}{between:>16.3f}{ours:>16.3f}{theirs:>16.3f}{bound:>8}{'' if reached else '  MISSED'}"
            )
            results[name] = {
                "opencv_dali": between,
                "opencv_reference": ours,
                "dali_reference": theirs,
                "bound": bound,
            }
    if path:
        path.write_text(json.dumps({"images": len(images), "levels": results}, indent=1) + "\n")
    return int(any(result["opencv_dali"] > result["bound"] for result in results.values()))


def executors(
    pool: ThreadPoolExecutor, size: int, batch: int
) -> tuple[AugmentationBackend, AugmentationBackend]:
    """Both, without normalization."""
    given: dict[str, Any] = {
        "threads": 2,
        "mean": (0, 0, 0),
        "std": (1, 1, 1),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
    }
    graph = ViewGraph(size, color=True, blur=True, solarize=True)
    return OpenCVBackend(pool, **given), DaliBackend([graph], pool, batch=batch, **given)


if __name__ == "__main__":
    sys.exit(main())
