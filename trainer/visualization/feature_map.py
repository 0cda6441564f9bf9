"""A feature map of a run: features of validation images, projected to two dimensions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from data_pipelines.loading.loaders import EvalLoader
from data_pipelines.settings import DataSettings
from data_pipelines.shards.mixed_set import open_train_shards
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.shards.subsets import balanced_sample
from trainer.evaluation.features import extract
from trainer.inference.loaded_backbones import load_backbones
from trainer.runs.run_folder import RunFolder
from trainer.visualization.projection import choose_way, project_2d

_BATCH = 256


@dataclass(frozen=True)
class FeatureMap:
    """Images as points in the plane."""

    places: NDArray[np.float32]
    """`[N, 2]` in [0, 1], with the same scale on both axes."""
    labels: NDArray[np.int64]
    """`[N]` indices into `classes`, -1 if unlabeled."""
    classes: tuple[str, ...]
    """Class names by label."""
    how: str
    """Projection method: `UMAP`, `t-SNE` or `PCA`."""
    backbone: str
    """The backbone: `momentum`, or `online` if the method has no momentum (EMA) encoder."""
    step: int
    """Step of the checkpoint."""
    of_validation: bool
    """Whether the images are from the validation set. Otherwise they are from the training set."""


def feature_map(run: RunFolder, *, images: int = 2000, how: str | None = None, seed: int = 0) -> FeatureMap:
    """Project validation images by the features of the newest valid checkpoint's backbone.

    The images depend only on the dataset and the seed, and are spread over the classes as evenly as possible. A run
    without a validation set shows training images. Unreadable images are skipped. Few images, or features that are all
    alike, are projected by PCA.

    Args:
        run: the run.
        images: maximum number of images.
        how: `umap`, `tsne` or `pca`. None: UMAP if it is installed, else t-SNE.
        seed: seed of the choice of images and of the projection.

    Raises:
        UserError: there is no checkpoint, no dataset with an index or no readable image, features are not finite, or
            the projection method is unknown or not installed.
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
            fix=f"check the shards: all4one data verify {quoted(shards.folder)} --decode",
        )
    if not np.isfinite(features).all():
        raise UserError(
            f"the {name} backbone computes features that are not finite",
            where=trained.recipe.source,
            fix="the run has diverged: train again with a lower optim.lr",
        )
    places, way = project_2d(features, way, seed)
    labels = found.labels.cpu().numpy()
    return FeatureMap(places, labels, shards.classes, way, name, trained.step, data.validation is not None)


def _open(settings: DataSettings) -> ShardSet:
    if settings.validation is None and settings.reader == "stream":
        raise UserError(
            "a streamed dataset has no index to draw images from",
            where=settings.train_names,
            fix="evaluate the run on an indexed dataset: all4one eval RUN --train SHARDS --validation SHARDS",
        )
    if settings.validation is None:
        return open_train_shards(settings)
    return ShardSet.open(settings.validation, settings)
