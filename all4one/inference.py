"""Trained backbones: loaded, and used to embed images."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from all4one.pretrained import PretrainedBackbone


@dataclass(frozen=True)
class Embeddings:
    """Features of N images.

    Attributes:
        keys: N paths. An image of a tar or a set of shards has the path of these and its name there.
        labels: `[N]` int64 classes, -1 for an image without a class.
        features: `[N, F]` float32.
        left_out: name and reason of each image that cannot be used.
    """

    keys: list[str]
    labels: "NDArray[np.int64]"
    features: "NDArray[np.float32]"
    left_out: list[tuple[str, str]]


def load_backbone(source: str | Path, backbone: str | None = None) -> "PretrainedBackbone":
    """Load a trained backbone.

    Args:
        source: a run's folder (its newest checkpoint that passes verification), a checkpoint's folder, or a file that
            `all4one export` wrote as safetensors. `RUN@STEP` and `RUN@best` name a checkpoint of a run.
            `hf://ORG/NAME` and `hf://ORG/NAME@REVISION` name a model on the Hugging Face hub that
            `all4one export --push` uploaded.
        backbone: `online` is the trained network, `momentum` its EMA. None: the trained network.

    Returns:
        A module in evaluation mode, on the GPU if there is one.

    Raises:
        UserError: there is no such source, checkpoint or backbone, or the hub cannot be reached and the model is not
            in its cache.
    """
    from all4one.pretrained import PretrainedBackbone
    from trainer.inference.loaded_backbones import load_backbones

    loaded = load_backbones(Path(source))
    name, network = loaded.choose(backbone)
    return PretrainedBackbone(network, loaded.recipe.data, name=name, checkpoint=loaded.recipe.source)


def embed(
    source_or_backbone: "str | Path | PretrainedBackbone",
    images: str | Path | Sequence[str | Path],
    *,
    backbone: str | None = None,
    batch: int = 256,
) -> Embeddings:
    """Compute features of image files, sized and normalized as for evaluation.

    An image that cannot be used is left out, and the result says why. For images in memory, call
    `backbone(backbone.preprocess(images))`.

    Args:
        source_or_backbone: what `load_backbone` takes or returns.
        images: image files, folders of images, tars of images and sets of shards. Sets may be URLs.
        backbone: `online` or `momentum`, if a source is given. None: the trained network.
        batch: images of one forward pass.

    Returns:
        Keys, labels and features in the order of the images.

    Raises:
        UserError: the source, the backbone or an entry of `images` does not exist, or no image can be used.
    """
    import numpy as np

    from all4one.pretrained import PretrainedBackbone
    from trainer.inference.embed import Rows
    from trainer.inference.embed import embed as embed_batches

    if batch < 1:
        raise UserError(f"a batch needs at least one image, not {batch}", where="batch", fix="leave it out")
    sources = _sources(images)
    if not isinstance(source_or_backbone, PretrainedBackbone):
        source_or_backbone = load_backbone(source_or_backbone, backbone)
    elif backbone is not None:
        raise UserError(
            "backbone has no effect on one that is loaded", where="embed", fix="give it to load_backbone"
        )
    network, left_out = source_or_backbone.network, list[tuple[str, str]]()
    was_training = network.training
    network.eval()
    try:
        with closing(
            embed_batches(
                network,
                sources,
                source_or_backbone.data,
                batch=batch,
                on_bad=lambda name, reason: left_out.append((name, reason)),
            )
        ) as batches:
            found: list[Rows] = list(batches)
    finally:
        network.train(was_training)
    if not found:
        raise _nothing(sources, left_out)
    labels = [label for rows in found for label in rows.labels or [-1] * len(rows.keys)]
    return Embeddings(
        keys=[key for rows in found for key in rows.keys],
        labels=np.array(labels, np.int64),
        features=np.concatenate([rows.features for rows in found]),
        left_out=left_out,
    )


def _sources(images: str | Path | Sequence[str | Path]) -> list[str]:
    listed = [images] if isinstance(images, str | Path) else list(images)
    for number, image in enumerate(listed):
        if not isinstance(image, str | Path):
            raise UserError(
                f"is a {type(image).__name__}, not a path",
                where=f"images[{number}]",
                fix="for images in memory, call backbone(backbone.preprocess(images))",
            )
    return [str(image) for image in listed]


def _nothing(sources: Sequence[str], left_out: Sequence[tuple[str, str]]) -> UserError:
    where = "images" if len(sources) != 1 else sources[0]
    if left_out:
        name, reason = left_out[0]
        return UserError(
            f"none of {len(left_out):,} images can be used, such as {name}: {reason}",
            where=where,
            fix="give whole images in JPEG, PNG or WebP",
        )
    return UserError(
        "there are no images",
        where=where,
        fix="name image files, or folders, tars or sets of shards that hold .jpg, .png or .webp",
    )
