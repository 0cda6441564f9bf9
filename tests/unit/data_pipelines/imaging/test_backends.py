"""Both executors make the same views of the same numbers."""

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.imaging.augment import AugmentationParams, center_crop_params, view_numbers
from data_pipelines.imaging.backend import AugmentationBackend, DecodeError
from data_pipelines.imaging.dali import DaliBackend
from data_pipelines.imaging.dali_graph import ViewGraph
from data_pipelines.imaging.images import decode_rgb, read_header
from data_pipelines.imaging.normalization import Normalization
from data_pipelines.imaging.opencv import OpenCVBackend
from data_pipelines.settings import ViewSettings

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 32
CASES = sorted((Path(__file__).parents[3] / "fixtures" / "cases" / "images").glob("*.jpg"))
VIEWS = (ViewSettings(size=SIZE, blur_prob=1.0), ViewSettings(size=SIZE, blur_prob=0.1, solarize_prob=0.2))


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def options(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    return {"threads": 2, "mean": MEAN, "std": STD, "device": torch.device("cpu"), "dtype": dtype}


@pytest.fixture(scope="module")
def executors(pool: ThreadPoolExecutor) -> dict[str, AugmentationBackend]:
    full = ViewGraph(SIZE, color=True, blur=True, solarize=True)
    return {
        "opencv": OpenCVBackend(pool, **options()),
        "dali": DaliBackend([full, full], pool, batch=32, **options()),
    }


@pytest.fixture(scope="module")
def jpegs(picture: Callable[..., np.ndarray], encode: Callable[..., bytes]) -> list[bytes]:
    return [encode(picture(i, 40 + 5 * i, 100 - 4 * i), "JPEG", quality=95) for i in range(8)]


def sizes(images: list[bytes]) -> np.ndarray:
    return np.array([[h.height, h.width] for h in map(read_header, images)])


def unit(images: list[bytes], **changes: Any) -> list[AugmentationParams]:
    """The top left corner of each image at its own scale, with some changes."""
    count = len(images)
    numbers = center_crop_params(sizes(images), resize=SIZE, crop=SIZE)
    numbers = numbers._replace(box=np.tile([0, 0, SIZE, SIZE], (count, 1)))
    changes = {
        name: np.full(count, value) if np.isscalar(value) else value for name, value in changes.items()
    }
    return [numbers._replace(**changes)] * 2


def chain(images: list[bytes], epoch: int = 0) -> list[AugmentationParams]:
    ids = np.arange(len(images))
    return [
        view_numbers(view, sizes(images), seed=3, epoch=epoch, samples=ids, view=number)
        for number, view in enumerate(VIEWS)
    ]


def levels(view: torch.Tensor) -> torch.Tensor:
    """Normalized views as levels in [0, 255]."""
    mean, std = (torch.tensor(x)[None, :, None, None] for x in (MEAN, STD))
    return (view * std + mean) * 255


def difference(
    executors: dict[str, AugmentationBackend], images: list[bytes], numbers: list[AugmentationParams]
) -> torch.Tensor:
    """Mean absolute difference of each image's first view, in levels."""
    one, other = (levels(executor.begin(images, numbers)()[0]) for executor in executors.values())
    return (one - other).abs().mean(dim=(1, 2, 3))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"brightness": np.float32(1.4)},
        {"contrast": np.float32(0.6)},
        {"saturation": np.float32(1.2)},
        {"saturation": np.float32(0)},
        {"hue": np.float32(0.1)},
        {"hue": np.float32(-0.1), "contrast": np.float32(1.3), "brightness": np.float32(0.7)},
        {"flip": True},
        {"solarize": True},
        {"blur_sigma": np.float32(0.1)},
        {"blur_sigma": np.float32(0.9)},
        {"blur_sigma": np.float32(2)},
    ],
    ids=lambda changes: " ".join(f"{k}={v}" for k, v in changes.items()) or "none",
)
def test_each_operation_agrees(
    executors: dict[str, AugmentationBackend], jpegs: list[bytes], changes: dict[str, Any]
) -> None:
    assert difference(executors, jpegs, unit(jpegs, **changes)).max() <= 1


@pytest.mark.parametrize("side", [14, 24, 40, 47, 64, 91, 130, 267])  # from 64 on, JPEGs are decoded smaller
def test_resize_agrees(
    executors: dict[str, AugmentationBackend],
    picture: Callable[..., np.ndarray],
    encode: Callable[..., bytes],
    side: int,
) -> None:
    images = [encode(picture(i, 275, 280), "JPEG", quality=95) for i in range(4)]
    box = np.tile([3, 5, side, side], (4, 1))
    assert difference(executors, images, unit(images, box=box)).max() <= 3


def test_the_whole_chain_agrees(executors: dict[str, AugmentationBackend], jpegs: list[bytes]) -> None:
    for epoch in range(3):
        assert difference(executors, jpegs, chain(jpegs, epoch)).mean() <= 2


def test_odd_images_have_the_same_pixels(
    executors: dict[str, AugmentationBackend], odd_images: dict[str, bytes]
) -> None:
    images = list(odd_images.values())
    for name, executor in executors.items():
        views = levels(executor.begin(images, unit(images))()[0])
        for kind, data, view in zip(odd_images, images, views, strict=True):
            expected = decode_rgb(data)[:SIZE, :SIZE].transpose(2, 0, 1)
            np.testing.assert_allclose(view.numpy(), expected, atol=1e-3, err_msg=f"{name} {kind}")


@pytest.mark.parametrize("name", ["opencv", "dali"])
def test_an_image_looks_the_same_in_any_batch(
    executors: dict[str, AugmentationBackend], jpegs: list[bytes], name: str
) -> None:
    numbers = chain(jpegs)
    together = executors[name].begin(jpegs, numbers)()
    for rows in ([3], [5, 3], [7, 0, 3, 1, 2]):
        some = [n._replace(**{k: v[rows] for k, v in n._asdict().items() if k != "size"}) for n in numbers]
        for view, part in zip(together, executors[name].begin([jpegs[r] for r in rows], some)(), strict=True):
            assert torch.equal(view[rows], part)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_matter(
    executors: dict[str, AugmentationBackend], jpegs: list[bytes], threads: int
) -> None:
    numbers = chain(jpegs)
    full = ViewGraph(SIZE, color=True, blur=True, solarize=True)
    with ThreadPoolExecutor(threads) as pool:
        others = {
            "opencv": OpenCVBackend(pool, **options() | {"threads": threads}),
            "dali": DaliBackend([full, full], pool, batch=8, **options() | {"threads": threads}),
        }
        for name, other in others.items():
            for one, two in zip(
                executors[name].begin(jpegs, numbers)(), other.begin(jpegs, numbers)(), strict=True
            ):
                assert torch.equal(one, two), name


def test_a_graph_without_color_is_the_full_graph_with_neutral_numbers(
    executors: dict[str, AugmentationBackend], pool: ThreadPoolExecutor, jpegs: list[bytes]
) -> None:
    bare = DaliBackend([ViewGraph(SIZE, color=False, blur=False, solarize=False)], pool, batch=8, **options())
    numbers = unit(jpegs)
    assert torch.equal(bare.begin(jpegs, numbers[:1])()[0], executors["dali"].begin(jpegs, numbers)()[0])


@pytest.mark.parametrize("name", ["opencv", "dali"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
def test_layout_and_dtype(
    pool: ThreadPoolExecutor, jpegs: list[bytes], name: str, dtype: torch.dtype
) -> None:
    full = ViewGraph(SIZE, color=True, blur=True, solarize=True)
    executor: AugmentationBackend = (
        OpenCVBackend(pool, **options(dtype))
        if name == "opencv"
        else DaliBackend([full, full], pool, batch=8, **options(dtype))
    )
    for view in executor.begin(jpegs, chain(jpegs))():
        assert view.shape == (8, 3, SIZE, SIZE)
        assert view.dtype == dtype
        assert view.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["opencv", "dali"])
def test_pixels_that_are_normalized_later_give_the_same_views(
    executors: dict[str, AugmentationBackend], pool: ThreadPoolExecutor, jpegs: list[bytes], name: str
) -> None:
    full, numbers = ViewGraph(SIZE, color=True, blur=True, solarize=True), chain(jpegs)
    pixels = (
        OpenCVBackend(pool, **options(torch.uint8))
        if name == "opencv"
        else DaliBackend([full, full], pool, batch=8, **options(torch.uint8))
    ).begin(jpegs, numbers)()
    normalize = Normalization(MEAN, STD, torch.device("cpu"))
    for raw, view in zip(pixels, executors[name].begin(jpegs, numbers)(), strict=True):
        assert raw.dtype == torch.uint8
        torch.testing.assert_close(normalize(raw, torch.empty_like(view)), view, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["opencv", "dali"])
def test_refused_rows_are_named_and_the_executor_goes_on(
    executors: dict[str, AugmentationBackend], jpegs: list[bytes], odd_images: dict[str, bytes], name: str
) -> None:
    hurt = bytearray(odd_images["png"])
    hurt[len(hurt) // 2 : len(hurt) // 2 + 50] = bytes(50)
    images = [jpegs[0], b"no image", jpegs[1], bytes(hurt)]
    with pytest.raises(DecodeError) as refused:
        executors[name].begin(images, unit(images[:1] * 4))()
    assert set(refused.value.rows) == {1, 3}
    assert executors[name].begin(jpegs, chain(jpegs))()[0].isfinite().all()


def with_stray_bytes(jpeg: bytes, number: int = 3) -> bytes:
    """Stray bytes between two segments: libjpeg passes over them, DALI's parser does not."""
    end_of_app0 = 4 + int.from_bytes(jpeg[4:6], "big") - 2 + 2
    return jpeg[:end_of_app0] + bytes(number) + jpeg[end_of_app0:]


def test_an_image_that_dali_refuses_costs_one_pipeline_and_only_once(
    executors: dict[str, AugmentationBackend], jpegs: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    dali = executors["dali"]
    assert isinstance(dali, DaliBackend)
    started, start = [], dali._start
    monkeypatch.setattr(dali, "_start", lambda: started.append(1) or start())
    images = [*jpegs[:3], with_stray_bytes(jpegs[3], 5), *jpegs[4:]]
    first = dali.begin(images, unit(jpegs))()[0]
    assert len(started) == 2  # after the batch that failed, and after the image that did
    assert torch.equal(dali.begin(images, unit(jpegs))()[0], first)
    assert len(started) == 2


def test_what_only_dali_refuses_is_fed_decoded(
    executors: dict[str, AugmentationBackend], jpegs: list[bytes]
) -> None:
    stray = with_stray_bytes(jpegs[2])
    for _ in range(2):
        views = levels(executors["dali"].begin([jpegs[0], stray, jpegs[1]], unit(jpegs[:3]))()[0])
        for view, data in zip(views, [jpegs[0], stray, jpegs[1]], strict=True):
            expected = decode_rgb(data)[:SIZE, :SIZE].transpose(2, 0, 1)
            np.testing.assert_allclose(view.numpy(), expected, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_agrees_with_the_cpu(
    executors: dict[str, AugmentationBackend],
    pool: ThreadPoolExecutor,
    jpegs: list[bytes],
    odd_images: dict[str, bytes],
) -> None:
    full = ViewGraph(SIZE, color=True, blur=True, solarize=True)
    given = options() | {"device": torch.device("cuda", 0)}
    on_gpu = {
        "opencv": OpenCVBackend(pool, **given),
        "dali": DaliBackend([full, full], pool, batch=32, **given),
    }
    images = [*jpegs, *odd_images.values()]
    numbers = chain(images)
    for name, executor in on_gpu.items():
        for one, other in zip(
            executors[name].begin(images, numbers)(), executor.begin(images, numbers)(), strict=True
        ):
            assert other.is_cuda
            assert other.is_contiguous(memory_format=torch.channels_last)
            assert (levels(one) - levels(other.cpu())).abs().mean() <= 2, name


def test_unusual_but_good_files_have_the_pixels_of_pillow_in_both(
    executors: dict[str, AugmentationBackend], jpegs: list[bytes], odd_images: dict[str, bytes]
) -> None:
    behind = [jpegs[3] + b"\0\0\0\x18ftypmp42\xff\xda\0" + bytes(500), jpegs[3] + b"\xff\xda\xff\xd9\xff\xda"]
    images = [path.read_bytes() for path in CASES] + behind + [odd_images["png"][:-12]]
    for executor in executors.values():
        view = levels(executor.begin(images, unit(images))()[0])
        for number, data in enumerate(images):
            pillow = np.array(Image.open(io.BytesIO(data)).convert("RGB"))[:SIZE, :SIZE]
            np.testing.assert_allclose(view[number].permute(1, 2, 0).numpy(), pillow, atol=0.01)
