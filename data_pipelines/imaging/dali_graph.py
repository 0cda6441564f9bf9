"""The graph of DALI's operators. All random numbers come from outside."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from nvidia.dali import fn, math, types

from data_pipelines.settings import GpuDecoderSettings


class ViewGraph(NamedTuple):
    """The operators that the graph needs for one view. Operators that no image needs are left out."""

    size: int
    color: bool
    blur: bool
    solarize: bool


def views_of_images(
    views: Sequence[ViewGraph],
    gpu: bool,
    mean: list[float],
    std: list[float],
    dtype: Any,
    decoder: GpuDecoderSettings,
) -> tuple[Any, ...]:
    """Decode each image once, then make all of its views: V x `[S, S, 3]`.

    Args:
        views: operators of each view.
        gpu: whether JPEGs are decoded on a GPU.
        mean: mean of each channel, in levels.
        std: standard deviation of each channel, in levels.
        dtype: DALI's data type of the views.
        decoder: settings of the GPU decoder.
    """
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
