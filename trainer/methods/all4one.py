"""All4One (Estepa, Sarasúa, Nagarajan, Radeva, ICCV 2023): neighbor, centroid and feature contrast."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from data_pipelines.settings import Strength
from trainer.contrast.losses import Contrast, Scope, feature_contrast, info_nce_all
from trainer.contrast.queue import NeighborQueue, Neighbors, QueueSettings
from trainer.distributed.batch_norm import forward_per_view
from trainer.distributed.collectives import rank, world_size
from trainer.methods.base import Method, MethodOutput, MethodSettings, ViewCount
from trainer.networks.backbones import Backbone
from trainer.networks.ema import MomentumEncoder
from trainer.networks.heads import (
    AttentionPooling,
    CentroidTransformer,
    PositionalEncoding,
    predictor,
    projector,
)

GLOBAL_VIEWS = 2
"""Number of global views, which come first and are used as keys. All further views are small."""


class All4OneSettings(MethodSettings):
    """Settings of All4One. The defaults are the published values."""

    first_names = {"neighbours": "num_neighbors", "neighbour_weight": "neighbor_weight"}

    name: Literal["all4one"] = "all4one"
    """The method."""
    projector_hidden: int = Field(2048, ge=1)
    """Width of the projector, H."""
    predictor_hidden: int = Field(4096, ge=1)
    """Width of both predictors, P."""
    embedding_dim: int = Field(256, ge=2)
    """Size of the embedding, D."""
    temperature: float = Field(0.2, gt=0)
    """Temperature of the neighbor contrast."""
    centroid_temperature: float = Field(0.1, gt=0)
    """Temperature of the centroid contrast."""
    num_neighbors: int = Field(5, ge=1)
    """Number of neighbors that form a centroid, k."""
    min_neighbors: int = Field(0, ge=0)
    """Smallest number of neighbors that form a centroid. Above 0, k is drawn for each image in each step, uniformly
    from this number to `num_neighbors`. All centroids of the image are then made of sequences of k. 0: k is
    `num_neighbors` for every image (published)."""
    neighbor_softness: float = Field(0.0, ge=0)
    """Temperature of soft neighbors. With a value above 0, the target of the neighbor contrast is the mean of the k
    neighbors, weighted by a softmax of their similarities to the key over this temperature. 0: it is the nearest
    neighbor (published)."""
    centroid_pooling: Literal["transformer", "attention"] = "transformer"
    """What makes a centroid of a sequence: the `transformer` (published), or a single `attention` layer, which costs
    less."""
    transformer_depth: int = Field(3, ge=1)
    """Number of transformer layers."""
    transformer_heads: int = Field(8, ge=1)
    """Attention heads of the transformer. The number must divide the embedding size."""
    transformer_dropout: Strength = 0.1
    """Dropout rate of the transformer."""
    positional_encoding: PositionalEncoding = "feature_axis"
    """Axis of the positional encoding: `feature_axis` as in the published code, `sequence_axis` as in the paper, or
    `none`."""
    feature_scope: Scope = "rank"
    """Rows that the feature contrast correlates: those of each `rank` (published), or of the `global` batch."""
    neighbor_weight: float = Field(0.5, ge=0)
    """Weight of the neighbor contrast. A contrast with weight 0 is neither built nor computed."""
    centroid_weight: float = Field(0.5, ge=0)
    """Weight of the centroid contrast."""
    feature_weight: float = Field(0.5, ge=0)
    """Weight of the feature contrast."""
    symmetric: bool = True
    """Whether each global view is a target for the other one. If not, only the first view gives targets, and the other
    views give predictions."""
    momentum: float = Field(0.99, ge=0, le=1)
    """Momentum of the momentum (EMA) encoder at the start. It follows a cosine to 1.0 at the end."""
    queue: QueueSettings = QueueSettings()
    """The neighbor queue."""
    queue_views: Literal["first", "both"] = "first"
    """Views whose keys enter the queue: the `first` view (published), or `both` global views."""
    queue_refresh: float = Field(0.0, ge=0, le=1)
    """How far a row of the queue moves toward the mean of the first view's keys whose nearest neighbor it is, as a
    fraction of the way. 0: rows keep the keys with which they entered (published)."""
    neighbor_space: Literal["projector", "encoder"] = "projector"
    """Where neighbors are near. `projector`: the embeddings of the momentum encoder are compared (published).
    `encoder`: its backbone features are compared, and everything that the losses get are still embeddings. The queue
    then also stores the features of each key. They cost 4 bytes x queue.size x number of features on every rank: 201 MB
    for a ResNet-18 and 805 MB for a ResNet-50 with the default size."""

    @model_validator(mode="after")
    def _consistent(self) -> "All4OneSettings":
        if not (self.searches or self.feature_weight):
            raise ValueError("one of neighbor_weight, centroid_weight and feature_weight must be above 0")
        if self.centroid_weight and self.embedding_dim % self.transformer_heads:
            raise ValueError(
                f"transformer_heads ({self.transformer_heads}) must divide embedding_dim ({self.embedding_dim})"
            )
        if self.searches and self.num_neighbors > self.queue.size:
            raise ValueError(
                f"num_neighbors ({self.num_neighbors}) must not exceed queue.size ({self.queue.size})"
            )
        if self.centroid_weight and self.min_neighbors > self.num_neighbors:
            raise ValueError(
                f"min_neighbors ({self.min_neighbors}) must not exceed num_neighbors ({self.num_neighbors})"
            )
        return self

    @property
    def searches(self) -> bool:
        """Whether any contrast needs neighbors."""
        return self.neighbor_weight > 0 or self.centroid_weight > 0

    @property
    def num_views(self) -> ViewCount:
        """Two global views, and any number of small views if a contrast uses them."""
        return ViewCount(GLOBAL_VIEWS, None if self.searches else GLOBAL_VIEWS)

    def build(self, backbone: Backbone, num_classes: int) -> "All4One":
        """Build the module. See the base class."""
        return All4One(self, backbone, num_classes)


class All4One(Method):
    """The All4One module. `momentum` is the momentum (EMA) encoder with its projector."""

    momentum: MomentumEncoder

    def __init__(self, settings: All4OneSettings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        self._targets = GLOBAL_VIEWS if s.symmetric else 1
        self._first = 0 if s.symmetric else 1  # index of the first view that the online networks see
        self.projector = projector(backbone.feature_dim, s.projector_hidden, s.embedding_dim)
        if s.neighbor_weight:
            self.neighbor_predictor = predictor(s.embedding_dim, s.predictor_hidden)
        if s.centroid_weight:
            self.centroid_predictor = predictor(s.embedding_dim, s.predictor_hidden)
            self.transformer = _pooling(s)
        self.momentum = MomentumEncoder(self.backbone, self.projector, s.momentum)
        if s.searches:
            searched = backbone.feature_dim if s.neighbor_space == "encoder" else None
            self.queue = NeighborQueue(s.queue, s.embedding_dim, searched, s.queue_refresh)

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """Compute the weighted contrasts of equation 8 for V views [B, 3, S, S]. Each view has its own forward pass."""
        s = self.settings
        keys, search_keys = self._keys(views)  # K x [B, D]; computed before activations are kept for backward
        found = self._search(search_keys or keys)
        if self.queue is not None:
            entering = GLOBAL_VIEWS if s.queue_views == "both" else 1
            self.queue.enqueue_async(keys[:entering], labels, ids, search_keys[:entering], found[0])
        features = self.features(views[self._first :])  # O x [B, F]
        z = forward_per_view(self.projector, features)  # O x [B, D]

        contrasts: dict[str, Contrast] = {}
        if s.neighbor_weight:
            contrasts["neighbor"] = self._neighbor_contrast(
                keys, found, forward_per_view(self.neighbor_predictor, z)
            )
        if s.centroid_weight:
            contrasts["centroid"] = self._centroid_contrast(
                found, forward_per_view(self.centroid_predictor, z)
            )
        parts = info_nce_all(contrasts) if contrasts else {}
        if s.feature_weight:
            pairs = self._pairs(GLOBAL_VIEWS)
            crossed = [z[j - self._first] for _, j in pairs]
            parts["feature"] = feature_contrast([keys[i] for i, _ in pairs], crossed, scope=s.feature_scope)

        weights = {name: getattr(s, f"{name}_weight") for name in parts}
        nearest = (keys[0], found[0]) if found else None
        others = features[1 : GLOBAL_VIEWS - self._first]
        return MethodOutput.weighted(
            parts, weights, features=features[0], other_features=others, z=z, neighbors=nearest
        )

    def _pairs(self, count: int) -> list[tuple[int, int]]:
        """Return the pairs (target view, predicting view) among the first `count` views."""
        return [(i, j) for i in range(self._targets) for j in range(count) if i != j]

    def _keys(self, views: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return normalized momentum embeddings [B, D] of the views that need them, in the precision of the weights,
        and normalized momentum features [B, F] of the same views if the search compares these."""
        s, dtype = self.settings, next(self.projector.parameters()).dtype
        completed = s.centroid_weight > 0 or (s.searches and s.queue_views == "both")
        seen = views[: GLOBAL_VIEWS if completed else self._targets]
        features, embedded = self.momentum.features_and_embeddings(seen)
        keys = [F.normalize(m.to(dtype), dim=1) for m in embedded]
        if self.queue is None or self.queue.search_rows is None:
            return keys, []
        return keys, [F.normalize(m.to(dtype), dim=1) for m in features]

    def _search(self, keys: list[Tensor]) -> list[Neighbors]:
        """Return the neighbors of each key, as the queue compares keys: k for a centroid or a soft neighbor, otherwise
        only the nearest. Without a queue, return nothing."""
        s = self.settings
        if self.queue is None:
            return []
        if s.centroid_weight:
            return self.queue.nearest(keys, s.num_neighbors)
        return self.queue.nearest(keys[: self._targets], s.num_neighbors if s.neighbor_softness else 1)

    def _neighbor_contrast(
        self, keys: Sequence[Tensor], found: Sequence[Neighbors], predicted: list[Tensor]
    ) -> Contrast:
        """Contrast each target view's neighbor with the predictions of all other views."""
        s = self.settings
        pairs = [(i, j - self._first) for i, j in self._pairs(len(predicted) + self._first)]
        targets = [n.rows[:, 0] for n in found]
        if s.neighbor_softness:
            targets = [
                soft_neighbor(key, n.rows, s.neighbor_softness) for key, n in zip(keys, found, strict=False)
            ]
        return Contrast(targets, predicted, pairs, s.temperature)

    def _centroid_contrast(self, found: Sequence[Neighbors], predicted: list[Tensor]) -> Contrast:
        """Contrast the centroid of each target view's neighbors with a centroid of each other view's prediction.

        The second sequence is the prediction followed by all neighbors but the last. A global view uses its own
        neighbors. A small view uses those of the global view that is not the target. All sequences go through the
        transformer in one call, because it has no operation across sequences. If numbers of neighbors are drawn, it
        sees only the first tokens of each sequence.
        """
        pairs = self._pairs(len(predicted) + self._first)
        followed = [(j, j if j < GLOBAL_VIEWS else 1 - i) for i, j in pairs]
        distinct = sorted(set(followed))
        sequences = [n.rows for n in found[: self._targets]]  # T x [B, k, D]
        for j, own in distinct:
            rows = found[own].rows
            sequences.append(torch.cat([predicted[j - self._first][:, None].to(rows.dtype), rows[:, :-1]], 1))
        lengths = (
            self._neighbor_counts(sequences[0]).repeat(len(sequences))
            if self.settings.min_neighbors
            else None
        )
        made = self.transformer(torch.cat(sequences), lengths).chunk(len(sequences))
        return Contrast(
            list(made[: self._targets]),
            list(made[self._targets :]),
            [(i, distinct.index(sequence)) for (i, _), sequence in zip(pairs, followed, strict=True)],
            self.settings.centroid_temperature,
        )

    def _neighbor_counts(self, like: Tensor) -> Tensor:
        """Draw the number of neighbors of each of this rank's images: [B] int64, for B rows on the device of `like`.

        Every rank draws the numbers of all ranks' images from the seed that they share, and takes its part. They depend
        on the run's seed, the step and the position in the micro-batch, but not on the number of processes. A generator
        on the device needs no wait.
        """
        s, size = self.settings, (world_size() * len(like),)
        generator = torch.Generator(like.device).manual_seed(self.shared_seed)
        numbers = torch.randint(
            s.min_neighbors, s.num_neighbors + 1, size, generator=generator, device=like.device
        )
        return numbers.chunk(world_size())[rank()]


def soft_neighbor(key: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """Return the mean [B, D] of the neighbors [B, k, D] of each normalized key [B, D], weighted by a softmax of their
    cosines over a temperature. Small temperatures give the nearest neighbor."""
    cosines = torch.einsum("bkd,bd->bk", rows, key.to(rows.dtype))
    weights = (cosines / temperature).softmax(1)  # [B, k]
    return torch.einsum("bk,bkd->bd", weights, rows)


def _pooling(s: All4OneSettings) -> CentroidTransformer | AttentionPooling:
    """Return the network that makes centroids. Its name in the method, `transformer`, gives it a learning rate of its
    own."""
    network: Callable[..., CentroidTransformer | AttentionPooling] = AttentionPooling
    if s.centroid_pooling == "transformer":
        network = partial(CentroidTransformer, depth=s.transformer_depth)
    return network(
        s.embedding_dim,
        length=s.num_neighbors,
        heads=s.transformer_heads,
        dropout=s.transformer_dropout,
        encoding=s.positional_encoding,
    )
