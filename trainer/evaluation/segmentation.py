"""Linear segmentation: a linear classifier of frozen patch features, tested pixel by pixel."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from data_pipelines.errors import UserError
from data_pipelines.loading.image_file_loader import PictureLoader
from data_pipelines.settings import DataSettings
from data_pipelines.sources.image_files import image_file
from data_pipelines.sources.masked_images import VOID, MaskedImage, crop_mask, read_mask
from trainer.distributed.collectives import all_reduce_sum, gather, rank, world_size
from trainer.evaluation.linear_fast import fit_chosen
from trainer.inference.patch_features import patch_features
from trainer.networks.backbones import Backbone

BATCH = 16
"""Images of a rank in one forward pass."""
MOST_PATCHES = 500_000
"""Patches of the training set that are kept: 4 GB in float32 with 2,048 features. More images give fewer each."""
_HELD_OUT = 10
"""Every tenth image of the training set chooses the strength of the penalty."""


@dataclass(frozen=True)
class SegmentationResult:
    """Result on the pixels of the validation images that have a class. Fractions in [0, 1]."""

    miou: float
    """Mean intersection over union of the classes that the validation masks have."""
    pixel_accuracy: float
    iou: dict[str, float]
    """Intersection over union by the number of the class."""
    patches: tuple[int, int]
    """Rows and columns of patches in an image."""
    train_patches: int
    """Patches with a class on which the classifier was fitted."""
    images: int
    """Readable validation images."""
    l2: float
    """Strength of the penalty `l2 / 2 |W|²`, added to the mean cross-entropy."""
    converged: bool
    """Whether the fit reached its optimum."""


@torch.no_grad()
def linear_segmentation(
    backbone: Backbone,
    train: Sequence[MaskedImage],
    validation: Sequence[MaskedImage],
    settings: DataSettings,
    *,
    say: Callable[[str], object] = lambda message: None,
    advance: Callable[[str], object] = lambda detail: None,
) -> SegmentationResult:
    """Fit multinomial logistic regression to the patches of the training images, and test it on pixels.

    Images and masks are resized and cropped as for evaluation. A patch has the class of most of its pixels. The L2
    strength is chosen on every tenth training image, then all are fitted. For the test, the logits of the patches of
    an image are interpolated to its pixels (bilinear). Every rank calls, reads its own part of the images, and gets
    the result of the whole.

    Args:
        backbone: the backbone in evaluation mode.
        train: images with masks to fit.
        validation: images with masks to test.
        settings: executor, threads, sizes, normalization.
        say: called on each rank with each image that cannot be read.
        advance: called with an empty text after each batch, for a progress bar.

    Raises:
        UserError: on all ranks: no image can be read, fewer than ten training images can be read, or there are fewer
            than two classes. On one rank: a mask is broken.
    """
    rows, labels, images, grid = _training_patches(backbone, train, settings, say, advance)
    classes = 1 + int(gather(labels.max().cpu()[None] if len(labels) else torch.tensor([-1])).max())
    known = labels >= 0
    if classes < 2:
        raise UserError(
            "the masks of the training images have fewer than two classes",
            where="TRAIN",
            fix=f"give masks with a number from 0 in each pixel. {VOID} is no class",
        )
    held_out = known & (images % _HELD_OUT == _HELD_OUT - 1)
    if int(all_reduce_sum(held_out.sum().cpu())) == 0:
        raise UserError(
            f"fewer than {_HELD_OUT} images can be read",
            where="TRAIN",
            fix="give more images, because every tenth of them chooses the strength of the penalty",
        )
    classifier = fit_chosen(rows, labels, known, held_out, classes)
    del rows
    confusion, count = torch.zeros(VOID, VOID, dtype=torch.int64), 0  # validation masks may have more classes
    for _, features, masks in _patches_with_masks(backbone, validation, settings, say, advance):
        count += len(features)
        logits = classifier.logits(features.flatten(0, 2)).unflatten(0, features.shape[:3])  # [b, h, w, C]
        for one, mask in zip(logits.permute(0, 3, 1, 2), masks, strict=True):
            pixels = F.interpolate(one[None], mask.shape, mode="bilinear")[0]  # [C, S, S]
            confusion += _confusion(pixels.argmax(0).cpu(), torch.from_numpy(mask))
    confusion, tested = all_reduce_sum(confusion), int(all_reduce_sum(torch.tensor(count)))
    if int(confusion.sum()) == 0:
        raise UserError(
            "no pixel of a readable image has a class",
            where="VALIDATION",
            fix=f"give masks with a number from 0 in each pixel. {VOID} is no class",
        )
    iou = intersection_over_union(confusion)
    return SegmentationResult(
        miou=sum(iou.values()) / len(iou),
        pixel_accuracy=int(confusion.diagonal().sum()) / int(confusion.sum()),
        iou={str(number): value for number, value in iou.items()},
        patches=grid,
        train_patches=int(all_reduce_sum(known.sum().cpu())),
        images=tested,
        l2=classifier.l2,
        converged=classifier.converged,
    )


def intersection_over_union(confusion: Tensor) -> dict[int, float]:
    """Return the intersection over union of each class that the masks have.

    Args:
        confusion: `[C, C]` pixels by class in the mask and predicted class.
    """
    correct, in_mask, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    union = in_mask + predicted - correct
    return {
        number: int(correct[number]) / int(union[number])
        for number in range(len(confusion))
        if int(in_mask[number])
    }


def patch_labels(mask: NDArray[np.uint8], height: int, width: int) -> NDArray[np.int64]:
    """Return the class of most pixels of each patch, `[height * width]`. -1: none of its pixels has a class.

    Args:
        mask: `[S, S]`.
        height: rows of patches.
        width: columns of patches.
    """
    rows = np.arange(mask.shape[0]) * height // mask.shape[0]
    columns = np.arange(mask.shape[1]) * width // mask.shape[1]
    cell = rows[:, None] * width + columns  # [S, S]
    known = mask < VOID
    pairs = cell[known] * VOID + mask[known]
    counts = np.bincount(pairs, minlength=height * width * VOID).reshape(height * width, VOID)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), -1)


def _training_patches(
    backbone: Backbone,
    train: Sequence[MaskedImage],
    settings: DataSettings,
    say: Callable[[str], object],
    advance: Callable[[str], object],
) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """Return features `[n, F]`, labels `[n]` and numbers of the images `[n]` of this rank's patches, and the grid."""
    rows, labels, numbers = [], [], []
    grid = torch.zeros(3, dtype=torch.int64)
    for places, features, masks in _patches_with_masks(backbone, train, settings, say, advance):
        height, width = features.shape[1:3]
        grid = torch.tensor([height, width, features.shape[3]])
        most = max(1, MOST_PATCHES // len(train))
        for place, one, mask in zip(places, features.flatten(1, 2), masks, strict=True):
            order = torch.randperm(height * width, generator=torch.Generator().manual_seed(place))[:most]
            rows.append(one[order.to(one.device)].float())
            labels.append(torch.from_numpy(patch_labels(mask, height, width))[order])
            numbers.append(torch.full((len(order),), place))
    height, width, depth = gather(grid[None]).amax(0).tolist()  # a rank may have no image
    if depth == 0:
        raise UserError("none of the images can be read", where="TRAIN", fix="see the reasons above")
    device = next(backbone.parameters()).device
    if not rows:
        empty = torch.empty(0, dtype=torch.int64, device=device)
        return torch.empty(0, depth, device=device), empty, empty, (height, width)
    return torch.cat(rows), torch.cat(labels).to(device), torch.cat(numbers).to(device), (height, width)


def _patches_with_masks(
    backbone: Backbone,
    images: Sequence[MaskedImage],
    settings: DataSettings,
    say: Callable[[str], object],
    advance: Callable[[str], object],
) -> Iterator[tuple[list[int], Tensor, list[NDArray[np.uint8]]]]:
    """Yield places in the list, patch features `[b, h, w, F]` and cropped masks `[S, S]` of this rank's images."""
    listed = [image_file(pair.image) for pair in images[rank() :: world_size()]]
    own = {picture.name: rank() + world_size() * number for number, picture in enumerate(listed)}
    device = next(backbone.parameters()).device
    crop, resize = settings.views[0].size, settings.eval_resize
    loader = PictureLoader(listed, settings, batch=BATCH, device=device)
    with closing(loader):
        for batch, names in loader:
            places = [own[name] for name in names]
            masks = [crop_mask(read_mask(images[place]), resize=resize, crop=crop) for place in places]
            yield places, patch_features(backbone, batch).float(), masks
            advance("")
    for name, reason in loader.bad.items():
        say(f"skipped {name}: {reason}")


def _confusion(predicted: Tensor, mask: Tensor) -> Tensor:
    """Return pixels by class in the mask and predicted class, `[VOID, VOID]`."""
    known = mask < VOID
    pairs = mask[known].long() * VOID + predicted[known]
    return torch.bincount(pairs, minlength=VOID * VOID).reshape(VOID, VOID)
