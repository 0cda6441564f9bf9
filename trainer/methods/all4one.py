"""All4One (Estepa, Sarasúa, Nagarajan, Radeva, ICCV 2023): neighbor, centroid and feature contrast."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from data_pipelines.settings import Strength
from trainer.contrast.losses import Contrast, Scope, feature_contrast, info_nce_all
from trainer.contrast.queue import NeighborQueue, Neighbors, QueueSettings
from trainer.distributed.batch_norm import forward_per_view
from trainer.methods.base import Method, MethodOutput, MethodSettings, ViewCount
from trainer.networks.backbones import Backbone
from trainer.networks.ema import MomentumEncoder
from trainer.networks.heads import CentroidTransformer, PositionalEncoding, predictor, projector

GLOBAL_VIEWS = 2
"""The first views of each image, which make keys; those after them are small ones."""


class All4OneSettings(MethodSettings):
    """Settings of All4One; the defaults are the published ones."""

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
    """Neighbors that make a centroid, k."""
    transformer_depth: int = Field(3, ge=1)
    """Layers of the transformer."""
    transformer_heads: int = Field(8, ge=1)
    """Attention heads of the transformer; divides the embedding."""
    transformer_dropout: Strength = 0.1
    """Dropout of the transformer."""
    positional_encoding: PositionalEncoding = "feature_axis"
    """Axis along which positions count: `feature_axis` as in the published code, `sequence_axis` as in the paper, or
    `none`: positions do not count."""
    feature_scope: Scope = "rank"
    """Rows that the feature contrast correlates: those of each `rank` (published) or the `global` batch."""
    neighbor_weight: float = Field(0.5, ge=0)
    """Weight of the neighbor contrast; with a weight of 0 nothing of a contrast is built or computed."""
    centroid_weight: float = Field(0.5, ge=0)
    """Weight of the centroid contrast."""
    feature_weight: float = Field(0.5, ge=0)
    """Weight of the feature contrast."""
    symmetric: bool = True
    """Whether each of the first two views is contrasted with the other; else keys are the first one's alone, and
    predictions those of all others."""
    momentum: float = Field(0.99, ge=0, le=1)
    """Momentum of the averaged copy at the start; a cosine takes it to 1.0 at the end."""
    queue: QueueSettings = QueueSettings()
    """The neighbor queue."""
    queue_views: Literal["first", "both"] = "first"
    """Views whose keys enter the queue: the `first` (published), or `both` of the first two."""

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
        return self

    @property
    def searches(self) -> bool:
        """Whether a contrast needs neighbors."""
        return self.neighbor_weight > 0 or self.centroid_weight > 0

    @property
    def num_views(self) -> ViewCount:
        """Two, and any number of small ones after them where a contrast takes such."""
        return ViewCount(GLOBAL_VIEWS, None if self.searches else GLOBAL_VIEWS)

    def build(self, backbone: Backbone, num_classes: int) -> "All4One":
        """Make the module; see the base class."""
        return All4One(self, backbone, num_classes)


class All4One(Method):
    """The method; `momentum` is the averaged copy of backbone and projector."""

    momentum: MomentumEncoder

    def __init__(self, settings: All4OneSettings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        self._targets = GLOBAL_VIEWS if s.symmetric else 1
        self._first = 0 if s.symmetric else 1  # view that the online networks see
        self.projector = projector(backbone.feature_dim, s.projector_hidden, s.embedding_dim)
        if s.neighbor_weight:
            self.neighbor_predictor = predictor(s.embedding_dim, s.predictor_hidden)
        if s.centroid_weight:
            self.centroid_predictor = predictor(s.embedding_dim, s.predictor_hidden)
            self.transformer = CentroidTransformer(
                s.embedding_dim,
                length=s.num_neighbors,
                depth=s.transformer_depth,
                heads=s.transformer_heads,
                dropout=s.transformer_dropout,
                encoding=s.positional_encoding,
            )
        self.momentum = MomentumEncoder(self.backbone, self.projector, s.momentum)
        if s.searches:
            self.queue = NeighborQueue(s.queue, s.embedding_dim)

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """V views [B, 3, S, S]: the contrasts of equation 8 that have a weight, each view its own forward pass."""
        s = self.settings
        keys = self._keys(views)  # K x [B, D]; first, while no activations are held for the backward pass
        found = self._search(keys)
        if self.queue is not None:
            self.queue.enqueue_async(keys if s.queue_views == "both" else keys[:1], labels, ids)
        features = self.features(views[self._first :])  # O x [B, F]
        z = forward_per_view(self.projector, features)  # O x [B, D]

        contrasts: dict[str, Contrast] = {}
        if s.neighbor_weight:
            contrasts["neighbor"] = self._neighbor_contrast(
                found, forward_per_view(self.neighbor_predictor, z)
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

        terms = {name: getattr(s, f"{name}_weight") * part for name, part in parts.items()}
        loss = torch.stack(list(terms.values())).sum()
        nearest = (keys[0], found[0]) if found else None
        return MethodOutput(loss=loss, features=features[0], z=z, parts=parts, terms=terms, neighbors=nearest)

    def _pairs(self, count: int) -> list[tuple[int, int]]:
        """Among the first `count` views, those that make targets with those whose predictions are drawn to them."""
        return [(i, j) for i in range(self._targets) for j in range(count) if i != j]

    def _keys(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Normalized momentum embeddings in the weights' precision, [B, D] each, of the views that something needs."""
        s = self.settings
        completed = s.centroid_weight > 0 or (s.searches and s.queue_views == "both")
        embedded = self.momentum.embed(views[: GLOBAL_VIEWS if completed else self._targets])
        return [F.normalize(m.to(next(self.projector.parameters()).dtype), dim=1) for m in embedded]

    def _search(self, keys: list[Tensor]) -> list[Neighbors]:
        """Neighbors of each key: the k that make a centroid, or else the nearest one; nothing without a queue."""
        if self.queue is None:
            return []
        if self.settings.centroid_weight:
            return self.queue.nearest(keys, self.settings.num_neighbors)
        return self.queue.nearest(keys[: self._targets], 1)

    def _neighbor_contrast(self, found: Sequence[Neighbors], predicted: list[Tensor]) -> Contrast:
        """Each target view's nearest neighbor against the predictions of all other views."""
        pairs = [(i, j - self._first) for i, j in self._pairs(len(predicted) + self._first)]
        targets = [n.rows[:, 0] for n in found]
        return Contrast(targets, predicted, pairs, self.settings.temperature)

    def _centroid_contrast(self, found: Sequence[Neighbors], predicted: list[Tensor]) -> Contrast:
        """The centroid of each target view's neighbors against one of each other view's prediction.

        That prediction is followed by all neighbors but the last: those of its own view, and after a small one those
        of the global view that is not the target. One call makes all centroids: the transformer has no term across
        sequences.
        """
        pairs = self._pairs(len(predicted) + self._first)
        followed = [(j, j if j < GLOBAL_VIEWS else 1 - i) for i, j in pairs]
        distinct = sorted(set(followed))
        sequences = [n.rows for n in found[: self._targets]]  # T x [B, k, D]
        for j, own in distinct:
            rows = found[own].rows
            sequences.append(torch.cat([predicted[j - self._first][:, None].to(rows.dtype), rows[:, :-1]], 1))
        made = self.transformer(torch.cat(sequences)).chunk(len(sequences))
        return Contrast(
            list(made[: self._targets]),
            list(made[self._targets :]),
            [(i, distinct.index(sequence)) for (i, _), sequence in zip(pairs, followed, strict=True)],
            self.settings.centroid_temperature,
        )
