"""`all4one patches`: write a figure of what a backbone sees in images, and print each skipped image."""

from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from data_pipelines.cores import usable_cores
from trainer.inference.loaded_backbones import load_backbones
from trainer.inference.patch_features import (
    accept_size,
    at_size,
    patches_and_attention,
)
from trainer.inference.patch_pictures import (
    PatchPictures,
    component_colors,
    require_picture_file,
    save_figure,
)
from trainer.inference.source_images import no_images, source_images

_NAME_LETTERS = 24


def draw_patches(
    source: Path, images: Sequence[str], out: Path, *, backbone: str | None, size: int | None, limit: int
) -> None:
    """Write the figure of the first readable images.

    Args:
        source: folder of a run or of a checkpoint, or an exported file.
        images: images, folders, tars and datasets of shards.
        out: output file.
        backbone: `online` or `momentum`. None: the trained network of a run, or the network of a file.
        size: side of the images that the network gets, in pixels. None: that of its training.
        limit: maximum number of images.

    Raises:
        UserError: the source, the backbone or the images do not exist, no image is readable, the network has no
            patches or rejects the size, or the file cannot be written.
    """
    require_picture_file(out)
    trained = load_backbones(source)
    _, network = trained.choose(backbone)
    data = trained.recipe.data
    if size is not None:
        accept_size(network, size)
        data = at_size(data, size)
    torch.set_num_threads(usable_cores())
    skipped: list[str] = []

    def tell(name: str, reason: str) -> None:
        skipped.append(name)
        print(f"skipped {name}: {reason}")

    device = next(network.parameters()).device
    keys, shown, features, attention = list[str](), list[Tensor](), list[Tensor](), list[Tensor]()
    with closing(source_images(images, data, batch=limit, device=device, on_bad=tell)) as found:
        for names, _, batch in islice(found, limit):
            chosen = batch[: limit - len(keys)]
            keys += names[: len(chosen)]
            shown.append(chosen)
            patches, weights = patches_and_attention(network, chosen)
            features.append(patches)
            if weights is not None:
                attention.append(weights)
            if len(keys) == limit:
                break
    if not keys:
        raise no_images(images, len(skipped))
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (data.mean, data.std))
    pixels = (torch.cat(shown).float() * std + mean).clamp(0, 1).permute(0, 2, 3, 1)  # [B, S, S, 3]
    colors = component_colors(torch.cat(features))
    pictures = PatchPictures(
        [_short(key) for key in keys],
        pixels.cpu().numpy(),
        colors.numpy(),
        torch.cat(attention).float().cpu().numpy() if attention else None,
    )
    save_figure(pictures, out)
    heads = f", {pictures.attention.shape[1]} attention heads" if pictures.attention is not None else ""
    also = f"; {len(skipped):,} skipped" if skipped else ""
    print(f"wrote {out}: {len(keys):,} images, {colors.shape[1]} x {colors.shape[2]} patches{heads}{also}")


def _short(key: str) -> str:
    name = key.rsplit("/", 1)[-1]
    return name if len(name) <= _NAME_LETTERS else f"…{name[1 - _NAME_LETTERS :]}"
