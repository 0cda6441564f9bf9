"""The pipelines that ours is measured against: the same views, made the way each library's users make them."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nvidia.dali import fn, math, pipeline_def, types
from torch.utils.data import DataLoader, default_collate

from data_pipelines.settings import DataSettings, ViewSettings

MEAN, STD = DataSettings().mean, DataSettings().std


def torchvision_pipeline(
    folder: Path, views: Sequence[ViewSettings], batch: int, workers: int
) -> Iterator[int]:
    """webdataset, PIL and torchvision's v2 transforms in a DataLoader's workers."""
    import webdataset

    transforms = [_transform(view) for view in views]
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=False, workersplitter=lambda urls: urls)
        .repeat()
        .shuffle(100)
        .decode("pil")
        .to_tuple("jpg;png", "cls")
        .map_tuple(partial(_all_views, transforms), lambda label: label)
        .batched(batch, collation_fn=default_collate)
    )
    for images, _ in DataLoader(dataset, batch_size=None, num_workers=workers, prefetch_factor=2):
        yield len(images[0])  # V x [B, 3, S, S]


def _all_views(transforms: Sequence[Any], image: Any) -> list[torch.Tensor]:
    return [transform(image) for transform in transforms]


def _transform(view: ViewSettings) -> Any:
    from torchvision.transforms import InterpolationMode, v2

    jitter = v2.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    steps = [
        v2.RandomResizedCrop(view.size, view.crop_scale, view.crop_ratio, InterpolationMode.BICUBIC),
        v2.RandomApply([jitter], view.color_jitter_prob),
        v2.RandomGrayscale(view.grayscale_prob),
    ]
    if view.blur_prob:
        steps.append(v2.RandomApply([v2.GaussianBlur(23, view.blur_sigma)], view.blur_prob))
    if view.solarize_prob:
        steps.append(v2.RandomSolarize(128, view.solarize_prob))
    steps += [
        v2.RandomHorizontalFlip(view.flip_prob),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ]
    return v2.Compose(steps)


def dali_reader(folder: Path, views: Sequence[ViewSettings], batch: int, threads: int) -> Iterator[int]:
    """DALI's webdataset reader and its random operators, with gray folded into the color twist."""
    paths = sorted(str(path) for path in folder.glob("*.tar"))
    build: Any = pipeline_def(enable_conditionals=True)(_dali_graph)
    pipeline = build(paths, views, batch_size=batch, num_threads=threads, device_id=None, seed=1)
    pipeline.build()
    while True:
        outputs = pipeline.run()
        tensors = [torch.from_dlpack(out.as_tensor()).clone() for out in outputs]
        yield len(tensors[0])


def _dali_graph(paths: list[str], views: Sequence[ViewSettings]) -> tuple[Any, ...]:
    members: Any = fn.readers.webdataset(
        paths=paths,
        ext=["jpg;png", "cls"],
        random_shuffle=True,
        initial_fill=100,
        missing_component_behavior="empty",
        name="reader",
    )
    image = fn.decoders.image(members[0], output_type=types.RGB, adjust_orientation=False)
    return tuple(_dali_view(image, view) for view in views)


def _dali_view(image: Any, view: ViewSettings) -> Any:
    out = fn.random_resized_crop(
        image,
        size=(view.size, view.size),
        random_area=view.crop_scale,
        random_aspect_ratio=view.crop_ratio,
        interp_type=types.INTERP_CUBIC,
    )
    jittered = fn.random.coin_flip(probability=view.color_jitter_prob)
    colored = fn.random.coin_flip(probability=1 - view.grayscale_prob)
    factors = {
        "brightness": 1 + jittered * fn.random.uniform(range=(-view.brightness, view.brightness)),
        "contrast": 1 + jittered * fn.random.uniform(range=(-view.contrast, view.contrast)),
        "saturation": colored * (1 + jittered * fn.random.uniform(range=(-view.saturation, view.saturation))),
        "hue": jittered * fn.random.uniform(range=(-360 * view.hue, 360 * view.hue)),
    }
    out = fn.color_twist(out, **factors)
    if view.blur_prob and fn.random.coin_flip(probability=view.blur_prob, dtype=types.BOOL):
        out = fn.gaussian_blur(out, sigma=fn.random.uniform(range=view.blur_sigma))
    if view.solarize_prob and fn.random.coin_flip(probability=view.solarize_prob, dtype=types.BOOL):
        out = math.min(out, types.Constant(255, dtype=types.UINT8) - out)
    return fn.crop_mirror_normalize(
        out,
        mirror=fn.random.coin_flip(probability=view.flip_prob),
        mean=[255 * m for m in MEAN],
        std=[255 * s for s in STD],
        dtype=types.FLOAT,
        output_layout="HWC",
    )
