import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from data_pipelines.imaging.augment import AugmentationParams, center_crop_params, view_numbers
from data_pipelines.settings import ViewSettings

FULL = ViewSettings(size=32, blur_prob=0.5, solarize_prob=0.2)


def draw(
    settings: ViewSettings, sizes: list[tuple[int, int]], samples: list[int] | None = None, **kwargs: int
) -> AugmentationParams:
    ids = np.arange(len(sizes)) if samples is None else np.array(samples)
    return view_numbers(
        settings, np.array(sizes), **({"seed": 1, "epoch": 0, "view": 0} | kwargs), samples=ids
    )


@given(
    sizes=st.lists(st.tuples(st.integers(8, 3000), st.integers(8, 3000)), min_size=1, max_size=8),
    seed=st.integers(0, 2**64 - 1),
)
def test_numbers_are_in_range(sizes: list[tuple[int, int]], seed: int) -> None:
    numbers = draw(FULL, sizes, seed=seed)
    y, x, h, w = numbers.box.T
    height, width = np.array(sizes).T
    assert (y >= 0).all()
    assert (x >= 0).all()
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (y + h <= height).all()
    assert (x + w <= width).all()
    assert ((numbers.brightness >= 0.6) & (numbers.brightness <= 1.4)).all()
    assert ((numbers.contrast >= 0.6) & (numbers.contrast <= 1.4)).all()
    assert ((numbers.saturation == 0) | (np.abs(numbers.saturation - 1) <= 0.2 + 1e-6)).all()
    assert (np.abs(numbers.hue) <= 0.1).all()
    blurred = numbers.blur_sigma > 0
    assert ((numbers.blur_sigma[blurred] >= 0.1) & (numbers.blur_sigma[blurred] <= 2)).all()


@given(order=st.permutations(range(6)), epoch=st.integers(0, 10_000))
def test_a_sample_has_the_same_numbers_in_any_batch(order: list[int], epoch: int) -> None:
    sizes = [(40 + 9 * i, 90 - 7 * i) for i in range(6)]
    together = draw(FULL, sizes, epoch=epoch)
    mixed = draw(FULL, [sizes[i] for i in order], order, epoch=epoch)
    for one, other in zip(together[1:], mixed[1:], strict=True):
        np.testing.assert_array_equal(one[order], other)


def test_views_epochs_and_seeds_differ() -> None:
    sizes = [(100, 100)] * 20
    boxes = {
        draw(FULL, sizes, seed=seed, epoch=epoch, view=view).box.tobytes()
        for seed in (0, 1)
        for epoch in (0, 1)
        for view in (0, 1)
    }
    assert len(boxes) == 8


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (32, 32)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    count = 2000
    ours = draw(ViewSettings(), [(height, width)] * count).box
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    )
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(20, 400), (400, 20)])
def test_where_no_crop_fits_the_center_is_taken_as_torchvision_does(height: int, width: int) -> None:
    settings = ViewSettings(crop_scale=(0.99, 1.0))
    ours = draw(settings, [(height, width)]).box[0]
    theirs = RandomResizedCrop.get_params(torch.empty(3, height, width), [0.99, 1.0], [3 / 4, 4 / 3])
    assert tuple(ours) == theirs


def test_rates_are_met() -> None:
    numbers = draw(FULL, [(64, 64)] * 20_000)
    rates = {
        "flip": (numbers.flip.mean(), 0.5),
        "solarize": (numbers.solarize.mean(), 0.2),
        "blur": ((numbers.blur_sigma > 0).mean(), 0.5),
        "gray": ((numbers.saturation == 0).mean(), 0.2),
        "jitter": ((numbers.brightness != 1).mean(), 0.8),
    }
    for name, (rate, wanted) in rates.items():
        assert rate == pytest.approx(wanted, abs=0.015), name


def test_rates_of_zero_change_nothing() -> None:
    off = ViewSettings(color_jitter_prob=0, grayscale_prob=0, flip_prob=0)
    numbers = draw(off, [(64, 64)] * 200)
    assert not numbers.color_changes().any()
    assert not numbers.flip.any()
    np.testing.assert_allclose(numbers.color_matrix(), np.tile(np.eye(3, 4), (200, 1, 1)), atol=1e-12)


def test_color_matrix_does_what_its_numbers_say() -> None:
    def matrix(**changes: float) -> np.ndarray:
        numbers = center_crop_params(np.array([[8, 8]]), resize=8, crop=8)
        return numbers._replace(**{k: np.float32([v]) for k, v in changes.items()}).color_matrix()[0]

    np.testing.assert_allclose(matrix(brightness=1.5), 1.5 * np.eye(3, 4), atol=1e-12)
    np.testing.assert_allclose(matrix(contrast=0.5) @ [128, 128, 128, 1], [128] * 3, atol=1e-9)
    np.testing.assert_allclose(matrix(contrast=0.5) @ [28, 228, 128, 1], [78, 178, 128], atol=1e-9)
    gray = matrix(saturation=0.0) @ [200, 100, 50, 1]
    np.testing.assert_allclose(gray, [0.299 * 200 + 0.587 * 100 + 0.114 * 50] * 3, rtol=4e-3)
    turned = matrix(hue=1.0)
    np.testing.assert_allclose(turned, np.eye(3, 4), atol=1e-9)


@pytest.mark.parametrize(
    ("size", "box"),
    [((375, 500), (23, 86, 328, 328)), ((32, 32), (2, 2, 28, 28)), ((256, 300), (16, 38, 224, 224))],
)
def test_center_crop(size: tuple[int, int], box: tuple[int, ...]) -> None:
    numbers = center_crop_params(np.array([size]), resize=256, crop=224)
    assert tuple(numbers.box[0]) == box
