"""Brings micro-batches to a GPU that does not exist, and prints what reaches it, as JSON. Its memory is the host's."""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from data_pipelines.imaging.augment import numbers_of_views
from data_pipelines.imaging.normalization import Normalization
from data_pipelines.imaging.opencv import OpenCVBackend
from data_pipelines.loading.device_batches import DeviceBatches
from data_pipelines.loading.prefetching_batches import Batch
from data_pipelines.settings import ViewSettings

VIEWS = [ViewSettings(size=32), ViewSettings(size=16, blur_prob=1)]
NORMAL = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
ROWS, BATCHES = 5, 5
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
log: list[str] = []


def main() -> int:
    rng = np.random.default_rng(0)
    images = [
        cv2.imencode(".png", rng.integers(0, 256, (40, 50, 3), np.uint8))[1].tobytes() for _ in range(ROWS)
    ]
    arrived: list[tuple[Tensor, bool]] = []

    def normalize(self: Normalization, pixels: Tensor, out: Tensor) -> Tensor:
        beside = torch.cuda.current_stream() != torch.cuda.default_stream()
        arrived.append((pixels, beside))
        return out  # no kernel runs on this device

    plain, expected = Normalization.__call__, list[Tensor]()
    Normalization.__call__ = normalize  # type: ignore[method-assign]
    _watch_streams()
    with ThreadPoolExecutor(2) as pool:
        common: dict[str, Any] = {"threads": 2, **NORMAL}
        on_gpu = OpenCVBackend(pool, device=GPU, dtype=torch.uint8, **common)
        on_cpu = OpenCVBackend(pool, device=CPU, dtype=torch.float32, **common)

        def pixels() -> Iterator[Batch]:
            for number in range(BATCHES):
                ids = np.arange(number * ROWS, (number + 1) * ROWS)
                views = numbers_of_views(VIEWS, np.array([[40, 50]] * ROWS), seed=0, epoch=0, samples=ids)
                expected.extend(on_cpu.begin(images, views)())
                made, labels = on_gpu.begin(images, views)(), torch.from_numpy(ids)
                log.append("copy")
                yield Batch(made, labels.pin_memory(), labels.pin_memory())

        bring = DeviceBatches(GPU, torch.float32, **NORMAL)
        places = set[int]()
        ids: list[int] = []
        for batch in bring.bring(pixels()):
            log.append("compute")
            places |= {view.data_ptr() for view in batch.views}
            ids += batch.ids.cpu().tolist()
        order = list(log)
        kept = DeviceBatches(GPU, torch.float32, **NORMAL, keep=True)
        separate = {batch.views[0].data_ptr() for batch in list(kept.bring(pixels()))}
    on_host = Normalization(**NORMAL, device=CPU)
    found = [plain(on_host, pixels.cpu(), torch.empty(pixels.shape)) for pixels, _ in arrived]
    print(
        json.dumps(
            {
                "devices": sorted({pixels.device.type for pixels, _ in arrived}),
                "dtypes": sorted({str(pixels.dtype) for pixels, _ in arrived}),
                "beside the training": all(beside for _, beside in arrived),
                "largest difference": max(
                    float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)
                ),
                "places of a view": len(places) / len(VIEWS),
                "places of kept views": len(separate),
                "ids": ids,
                "order": order,
            }
        )
    )
    return 0


def _watch_streams() -> None:
    """Write to the log when a stream waits for an event of the other one."""
    plain = torch.cuda.Stream.wait_event

    def wait(self: torch.cuda.Stream, event: torch.cuda.Event) -> None:
        computing = self == torch.cuda.default_stream()
        log.append("computing waits" if computing else "copying waits")
        plain(self, event)

    torch.cuda.Stream.wait_event = wait  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main())
