"""The augmentation backend for GPUs: a DALI graph without random operators. It also runs on CPUs.

Every batch is one `feed` and one `run`. The graph has no position, so batches can come in any order. Images that are
not plain JPEGs are decoded by `images.decode_rgb` and fed as PPM files. Both backends therefore see the same pixels of
a CMYK JPEG or a 16-bit PNG.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor as Pool
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, math, pipeline_def, types

from data_pipelines.errors import UserError, first_line
from data_pipelines.imaging.augment import AugmentationParams
from data_pipelines.imaging.backend import DecodeError
from data_pipelines.imaging.buffers import Buffers
from data_pipelines.imaging.images import UnusableImage, check, decode_rgb
from data_pipelines.settings import GpuDecoderSettings


class ViewGraph(NamedTuple):
    """The operators that the graph needs for one view. Operators that no image needs are left out."""

    size: int
    color: bool
    blur: bool
    solarize: bool


class DaliBackend:
    """Makes the views of a batch with DALI.

    Args:
        views: the graph of each view.
        pool: threads for images that DALI does not decode.
        batch: maximum batch size.
        threads: number of DALI's own threads.
        mean: mean of red, green and blue in [0, 1].
        std: standard deviation of red, green and blue in [0, 1].
        device: device of the views, which also decodes JPEGs. A CUDA device has an index.
        dtype: dtype of the views. uint8: they are not normalized.
        decoder: settings of the GPU decoder. None: the defaults.
    """

    def __init__(
        self,
        views: Sequence[ViewGraph],
        pool: Pool,
        *,
        batch: int,
        threads: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        dtype: torch.dtype,
        decoder: GpuDecoderSettings | None = None,
    ) -> None:
        self._views, self._pool, self._device, self._dtype = views, pool, device, dtype
        gpu = device.type == "cuda"
        build: Callable[..., Any] = pipeline_def(enable_conditionals=True)(_graph)
        self._build = lambda: build(
            views,
            gpu,
            [0.0] if dtype == torch.uint8 else [255 * m for m in mean],
            [1.0] if dtype == torch.uint8 else [255 * s for s in std],
            {torch.uint8: types.UINT8, torch.float16: types.FLOAT16}.get(dtype, types.FLOAT),
            decoder or GpuDecoderSettings(),
            batch_size=batch,
            num_threads=threads,
            device_id=device.index,
            prefetch_queue_depth=1,
            seed=0,
        )
        self._stream = torch.cuda.Stream(device) if gpu else None
        self._buffers = Buffers()
        self._refused_before: set[bytes] = set()
        self._pipeline = self._start()

    def run(self, images: Sequence[bytes], views: Sequence[AugmentationParams]) -> list[torch.Tensor]:
        """See `AugmentationBackend.run`."""
        numbers = self._numbers(views)
        try:
            return self._run(self._prepare(images), numbers)
        except RuntimeError:
            self._find_refused(images)
        return self._run(self._prepare(images), numbers)

    def _start(self) -> Any:
        pipeline = self._build()
        try:
            pipeline.build()
        except RuntimeError as error:
            raise UserError(
                f"DALI cannot start: {first_line(error)}",
                where=f"device {self._device}",
                fix="set data.executor=opencv, or install the CUDA driver that DALI needs",
            ) from error
        return pipeline

    def _prepare(self, images: Sequence[bytes]) -> list[NDArray[np.uint8]]:
        """Return the input of DALI for each image: its own bytes if it is a plain JPEG, otherwise a PPM file.

        Headers and end markers are checked first, because one bad image makes DALI fail the whole batch.
        """
        refused: dict[int, str] = {}

        def prepare(row: int) -> NDArray[np.uint8]:
            data = images[row]
            try:
                if check(data, decode=False).plain_jpeg and not self._was_refused(data):
                    return np.frombuffer(data, np.uint8)
                return _ppm(decode_rgb(data))
            except UnusableImage as error:
                refused[row] = str(error)
                return np.empty(0, np.uint8)

        prepared = list(self._pool.map(prepare, range(len(images))))
        if refused:
            raise DecodeError(refused)
        return prepared

    def _was_refused(self, data: bytes) -> bool:
        return bool(self._refused_before) and data in self._refused_before

    def _find_refused(self, images: Sequence[bytes]) -> None:
        """Find the images that made DALI fail the batch.

        They are remembered, and DALI does not get them again. Images that another decoder accepts are fed as pixels,
        and the others are rejected.
        """
        refused: dict[int, str] = {}
        same = [AugmentationParams(v.size, *_whole()) for v in self._views]
        prepared = self._prepare(images)
        self._pipeline = self._start()
        for row, image in enumerate(images):
            try:
                self._run([prepared[row]], self._numbers(same))
            except RuntimeError:
                self._pipeline = (
                    self._start()
                )  # a failed pipeline is unusable, and a new one takes seconds to build
                self._refused_before.add(image)
                try:
                    decode_rgb(image)
                except UnusableImage as error:
                    refused[row] = str(error)
        if self._device.type == "cuda":
            # The first batch of a pipeline fixes how many images its hardware decoder takes at once.
            self._pipeline = self._start()
        if refused:
            raise DecodeError(refused)

    def _numbers(self, views: Sequence[AugmentationParams]) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        for i, (view, graph) in enumerate(zip(views, self._views, strict=True)):
            box = view.box.astype(np.float32)
            arrays |= {f"start{i}": box[:, :2], f"end{i}": box[:, :2] + box[:, 2:]}
            arrays[f"flip{i}"] = view.flip.astype(np.int32)
            if graph.color:
                arrays[f"colored{i}"] = view.color_changes()
                arrays |= {f"brightness{i}": view.brightness, f"contrast{i}": view.contrast}
                arrays |= {f"saturation{i}": view.saturation, f"hue{i}": 360 * view.hue}
            if graph.blur:
                blurred = view.blur_sigma > 0
                arrays |= {
                    f"blurred{i}": blurred,
                    f"sigma{i}": np.where(blurred, view.blur_sigma, np.float32(1)),
                }
            if graph.solarize:
                arrays[f"solarize{i}"] = view.solarize
        return arrays

    def _run(self, images: list[NDArray[np.uint8]], numbers: dict[str, NDArray[Any]]) -> list[torch.Tensor]:
        self._pipeline.feed_input("images", images)
        for name, array in numbers.items():
            self._pipeline.feed_input(name, np.ascontiguousarray(array))
        outputs = self._pipeline.run()
        # The copies are needed because DALI reuses the memory for the next batch. They have their own stream, because
        # waiting for them on the default stream would wait for the training step.
        with torch.cuda.stream(self._stream):
            copies = [self._copy(torch.from_dlpack(out.as_tensor())) for out in outputs]
        if self._stream is not None:
            self._stream.synchronize()
        return [copy.permute(0, 3, 1, 2) for copy in copies]  # V x [B, 3, S, S]

    def _copy(self, view: torch.Tensor) -> torch.Tensor:
        if view.device.type == "cpu" and self._dtype == torch.float32:
            return self._buffers.take(*view.shape).copy_(view)
        return view.to(self._dtype, copy=True)


def _graph(
    views: Sequence[ViewGraph],
    gpu: bool,
    mean: list[float],
    std: list[float],
    dtype: Any,
    decoder: GpuDecoderSettings,
) -> tuple[Any, ...]:
    """Decode each image once, then make all of its views: V x `[S, S, 3]`."""
    encoded = fn.external_source(name="images", dtype=types.UINT8, ndim=1)
    image = fn.decoders.image(
        encoded,
        device="mixed" if gpu else "cpu",
        output_type=types.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
        hw_decoder_load=decoder.hardware_load,
        hybrid_huffman_threshold=decoder.hybrid_huffman_threshold,
        preallocate_width_hint=decoder.width_hint,
        preallocate_height_hint=decoder.height_hint,
    )
    return tuple(_view_graph(image, i, view, mean, std, dtype) for i, view in enumerate(views))


def _view_graph(image: Any, i: int, view: ViewGraph, mean: list[float], std: list[float], dtype: Any) -> Any:
    def number(name: str, kind: Any = types.FLOAT, ndim: int = 0) -> Any:
        return fn.external_source(name=f"{name}{i}", dtype=kind, ndim=ndim)

    out = fn.resize(
        image,
        size=(view.size, view.size),
        roi_start=number("start", ndim=1),
        roi_end=number("end", ndim=1),
        interp_type=types.INTERP_CUBIC,
    )
    if view.color and number("colored", types.BOOL):
        out = fn.color_twist(
            out,
            brightness=number("brightness"),
            contrast=number("contrast"),
            saturation=number("saturation"),
            hue=number("hue"),
        )
    if view.blur:
        sigma = number("sigma")
        if number("blurred", types.BOOL):
            out = fn.gaussian_blur(out, sigma=sigma)
    if view.solarize and number("solarize", types.BOOL):
        out = math.min(out, types.Constant(255, dtype=types.UINT8) - out)
    flip = number("flip", types.INT32)
    return fn.crop_mirror_normalize(out, mirror=flip, mean=mean, std=std, dtype=dtype, output_layout="HWC")


def _whole() -> tuple[NDArray[Any], ...]:
    """Parameters of a view that every image has: its first pixels, unchanged."""
    one, zero, no = np.ones(1, np.float32), np.zeros(1, np.float32), np.zeros(1, np.bool_)
    return np.array([[0, 0, 1, 1]]), one, one, one, zero, zero, no, no


def _ppm(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pixels `[H, W, 3]` as a PPM file, which is lossless and needs no computation."""
    height, width, _ = pixels.shape
    return np.frombuffer(b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes(), np.uint8)
