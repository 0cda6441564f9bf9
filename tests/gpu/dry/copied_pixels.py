"""Makes views for a GPU that does not exist, and prints what reaches it, as JSON. Its memory is that of the host."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from data_pipelines.imaging import device_copy
from data_pipelines.imaging.augment import numbers_of_views
from data_pipelines.imaging.opencv import OpenCVBackend
from data_pipelines.settings import ViewSettings

VIEWS = [ViewSettings(size=32), ViewSettings(size=16, blur_prob=1)]
NORMAL = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


def main() -> int:
    rng = np.random.default_rng(0)
    images = [
        cv2.imencode(".png", rng.integers(0, 256, (40, 50, 3), np.uint8))[1].tobytes() for _ in range(5)
    ]
    sizes = np.array([[40, 50]] * 5)
    numbers = numbers_of_views(VIEWS, sizes, seed=0, epoch=0, samples=np.arange(5))
    arrived: list[tuple[Tensor, bool]] = []

    def normalize(pixels: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        beside = torch.cuda.current_stream() != torch.cuda.default_stream()
        arrived.append((pixels, beside))
        return pixels.permute(0, 3, 1, 2)  # no kernel runs on this device

    device_copy.normalize, plain = normalize, device_copy.normalize
    with ThreadPoolExecutor(2) as pool:
        common: dict[str, Any] = {"threads": 2, "dtype": torch.float32, **NORMAL}
        on_gpu = OpenCVBackend(pool, device=torch.device("cuda", 0), **common)
        on_cpu = OpenCVBackend(pool, device=torch.device("cpu"), **common)
        on_gpu.run(images, numbers)
        expected = on_cpu.run(images, numbers)
    known = device_copy.scale_and_offset(on_cpu._normal, torch.device("cpu"), torch.float32)
    found = [plain(pixels.cpu(), *known) for pixels, _ in arrived]
    print(
        json.dumps(
            {
                "devices": [pixels.device.type for pixels, _ in arrived],
                "dtypes": [str(pixels.dtype) for pixels, _ in arrived],
                "beside the training": [beside for _, beside in arrived],
                "largest difference": max(
                    float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)
                ),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
