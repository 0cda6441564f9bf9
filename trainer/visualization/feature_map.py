"""A map of what a run has learned: features of images of the validation set in a plane."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.loading.loaders import EvalLoader
from data_pipelines.settings import DataSettings
from data_pipelines.shards.shard_set import ShardSet
from trainer.evaluation.features import extract
from trainer.inference.loaded_backbones import load_backbones
from trainer.runs.run_folder import RunFolder
from trainer.visualization.projection import choose_way, project_2d
from trainer.visualization.samples import balanced_sample

_BATCH = 256


@dataclass(frozen=True)
class FeatureMap:
    """Images as points."""

    places: NDArray[np.float32]
    """`[N, 2]` in [0, 1], in the same scale along both axes."""
    labels: NDArray[np.int64]
    """`[N]` places in `classes`, -1 where unlabeled."""
    classes: tuple[str, ...]
    """Names by label."""
    how: str
    """What laid them out: `UMAP`, `t-SNE` or `PCA`."""
    backbone: str
    """Whose features: `momentum`, or `online` where the method has no averaged copy."""
    step: int
    """Of the checkpoint."""
    of_validation: bool
    """Whether the images are of the validation set, and not of the one that was learned from."""


def feature_map(run: RunFolder, *, images: int = 2000, how: str | None = None, seed: int = 0) -> FeatureMap:
    """Lay out validation images by the features that the newest whole checkpoint's backbone makes of them.

    The images are a function of the set and the seed, spread over the classes as evenly as these allow; a run without a
    validation set shows images that it has learned from. Those that cannot be read are left out. Few images, and
    features that are all alike, are laid out by PCA.

    Args:
        run: the run.
        images: at most so many.
        how: `umap`, `tsne` or `pca`; None: UMAP where it is installed, else t-SNE.
        seed: of the choice of images and of the layout.

    Raises:
        UserError: no checkpoint, no set with an index, no image that can be read, features that are not finite, or a
            way that is unknown or not installed.
    """
    way, data = choose_way(how), run.read_config().data
    shards = _open(data)
    trained = load_backbones(run.path)
    assert trained.step is not None
    name, backbone = trained.choose("momentum" if "momentum" in trained.backbones else None)
    chosen = balanced_sample(shards.index["label"], images, seed)
    device = next(backbone.parameters()).device
    loader = EvalLoader(
        shards.subset(chosen), trained.recipe.data, rank=0, world_size=1, batch=_BATCH, device=device
    )
    with loader:
        found = extract({name: backbone}, loader)
    features = found.by_backbone[name].cpu().numpy()  # [N, F]
    if not len(features):
        raise UserError(
            "none of the images can be read",
            where=shards.folder,
            fix=f"look at the shards: all4one data verify {shards.folder} --decode",
        )
    if not np.isfinite(features).all():
        raise UserError(
            f"the {name} backbone makes features that are not finite",
            where=trained.recipe.source,
            fix="the run has diverged: train again with a lower optim.lr",
        )
    places, way = project_2d(features, way, seed)
    labels = found.labels.cpu().numpy()
    return FeatureMap(places, labels, shards.classes, way, name, trained.step, data.validation is not None)


def _open(settings: DataSettings) -> ShardSet:
    if settings.validation is None and settings.reader == "stream":
        raise UserError(
            "a set that is streamed has no index to draw images from",
            where=settings.train,
            fix="judge the run on an indexed set: all4one eval RUN --train SHARDS --validation SHARDS",
        )
    return ShardSet.open(settings.validation or settings.train, settings)
