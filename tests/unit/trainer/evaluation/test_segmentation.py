"""Linear segmentation of images whose colors show the classes, compared with scikit-learn and loops over pixels."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from data_pipelines.errors import UserError
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.sources.masked_images import VOID, masked_images
from trainer.evaluation.segmentation import intersection_over_union, linear_segmentation, patch_labels
from trainer.inference.patch_features import patch_features
from trainer.networks.backbones import BackboneSettings, build_backbone

SIZE, SIDE, TRAIN, TEST = 32, 8, 20, 7
COLORS = np.array([[200, 40, 40], [40, 200, 40], [60, 60, 220]])
SETTINGS = DataSettings(
    executor="opencv",
    threads=1,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    eval_resize=SIZE,
    views=[ViewSettings(size=SIZE)] * 2,
)


def save(folder, count, seed, classes=3):
    """Images of a background and a rectangle, whose classes are their colors with noise, and a border without class."""
    rng = np.random.default_rng(seed)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        mask = np.full((SIZE, SIZE), number % classes, np.uint8)
        y, x = rng.integers(4, 14, 2)
        mask[y : y + 12, x : x + 15] = (number + 1) % classes
        mask[:2] = VOID
        pixels = COLORS[np.where(mask == VOID, 0, mask)] + rng.normal(0, 30, (SIZE, SIZE, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{number:03}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number:03}.png")
    return folder


def network():
    torch.manual_seed(0)
    backbone = build_backbone(BackboneSettings(name="resnet18", width=8), SIZE).eval()
    for stage in (backbone.layer3, backbone.layer4):  # 8 x 8 patches in place of 4 x 4
        stage[0].conv1.stride = stage[0].downsample[0].stride = (1, 1)
    backbone.layer2[0].conv1.stride = backbone.layer2[0].downsample[0].stride = (4, 4)
    return backbone


def found(folder):
    return linear_segmentation(
        network(), masked_images(folder / "train"), masked_images(folder / "test"), SETTINGS
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    save(folder / "train", TRAIN, 0)
    save(folder / "test", TEST, 1)
    return folder


@pytest.fixture(scope="module")
def result(folder):
    return found(folder)


def rows_of(folder):
    """Patch features [N, 8, 8, F] and masks [N, 32, 32], without any of our loaders."""
    pairs = masked_images(folder)
    pixels = np.stack([np.asarray(Image.open(pair.image)) for pair in pairs]) / 255
    images = torch.from_numpy((pixels - 0.5) / 0.25).float().permute(0, 3, 1, 2)
    masks = np.stack([np.asarray(Image.open(pair.mask)) for pair in pairs])
    return patch_features(network(), images).double().numpy(), masks


def majority(mask, row, column):
    step = SIZE // SIDE
    values = mask[row * step : (row + 1) * step, column * step : (column + 1) * step].ravel()
    values = values[values != VOID]
    return np.bincount(values).argmax() if len(values) else -1


def test_it_is_logistic_regression_on_patches_tested_on_pixels(folder, result):
    features, masks = rows_of(folder / "train")
    labels = np.array([majority(m, r, c) for m in masks for r in range(SIDE) for c in range(SIDE)])
    rows = features.reshape(-1, features.shape[-1])[labels >= 0]
    labels = labels[labels >= 0]
    mean, std = rows.mean(0), rows.std(0)
    std[std < 1e-6] = 1
    model = LogisticRegression(C=1 / (result.l2 * len(rows)), tol=1e-8, max_iter=10_000)
    model.fit((rows - mean) / std, labels)

    tested, masks = rows_of(folder / "test")
    logits = torch.from_numpy(((tested - mean) / std) @ model.coef_.T + model.intercept_)  # [N, 8, 8, C]
    pixels = torch.nn.functional.interpolate(logits.permute(0, 3, 1, 2), size=SIZE, mode="bilinear")
    predicted = pixels.argmax(1).numpy()
    iou = {}
    for number in range(3):
        truth, guess = masks == number, (predicted == number) & (masks != VOID)
        iou[str(number)] = (truth & guess).sum() / (truth | guess).sum()
    assert result.train_patches == len(rows)
    assert result.images == TEST
    assert result.patches == (SIDE, SIDE)
    assert result.converged
    assert result.iou == pytest.approx(iou, abs=2e-3)  # a pixel on an edge may fall to either side
    assert result.miou == pytest.approx(np.mean(list(iou.values())), abs=2e-3)
    right = (predicted == masks)[masks != VOID].mean()
    assert result.pixel_accuracy == pytest.approx(right, abs=2e-3)
    assert result.miou > 0.6  # the colors can be told apart


def test_two_processes_get_the_same_result(folder, result, run_ranks):
    first, second = run_ranks(found, 2, folder)
    assert first == second
    assert (first.train_patches, first.images, first.l2) == (result.train_patches, result.images, result.l2)
    assert first.iou == pytest.approx(result.iou, abs=2e-3)


def test_a_class_that_only_validation_masks_have_counts_as_missed(folder, tmp_path):
    save(tmp_path / "train", TRAIN, 0, classes=2)
    (tmp_path / "test").symlink_to(folder / "test")
    result = found(tmp_path)
    assert set(result.iou) == {"0", "1", "2"}
    assert result.iou["2"] == 0


def test_unreadable_images_are_named_and_left_out(folder, tmp_path):
    save(tmp_path / "train", TRAIN, 0)
    (tmp_path / "train" / "images" / "003.png").write_bytes(
        (folder / "train" / "images" / "003.png").read_bytes()[:100]
    )
    said = []
    result = linear_segmentation(
        network(),
        masked_images(tmp_path / "train"),
        masked_images(folder / "test"),
        SETTINGS,
        say=said.append,
    )
    assert len(said) == 1
    assert said[0].startswith(f"skipped {tmp_path}/train/images/003.png: ")
    assert result.train_patches < TRAIN * SIDE * SIDE


@pytest.mark.parametrize(
    ("count", "classes", "message"),
    [(12, 1, "fewer than two classes"), (9, 3, "fewer than 10 images can be read")],
)
def test_too_little_to_fit(folder, tmp_path, count, classes, message):
    save(tmp_path / "train", count, 0, classes)
    (tmp_path / "test").symlink_to(folder / "test")
    with pytest.raises(UserError, match=message):
        found(tmp_path)


def test_labels_of_patches_of_an_odd_grid():
    mask = np.full((7, 7), VOID, np.uint8)
    mask[:4, :4] = 3  # the first of 2 x 2 patches has rows and columns 0 to 3
    mask[0, 4] = 9
    mask[4:, 0] = 0
    assert patch_labels(mask, 2, 2).tolist() == [3, 9, 0, -1]


def test_intersection_over_union_of_a_known_table():
    confusion = torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    assert intersection_over_union(confusion) == {0: 6 / 9, 1: 3 / 6}
