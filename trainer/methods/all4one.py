"""All4One (Estepa, Sarasúa, Nagarajan, Radeva, ICCV 2023): neighbour, centroid and feature contrast."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from data_pipelines.settings import Probability
from trainer import ema
from trainer.backbones import Backbone
from trainer.batch_norm import by_view
from trainer.heads import CentroidTransformer, PositionalEncoding, predictor, projector
from trainer.losses import Scope, feature_contrast, keys_of_all, nce, symmetric
from trainer.methods.base import Method, MethodSettings, Representation
from trainer.queue import NeighbourQueue, Neighbours, QueueSettings


class All4OneSettings(MethodSettings):
    """Settings of All4One; the defaults are the published ones."""

    name: Literal["all4one"] = "all4one"
    """The method."""
    projector_hidden: int = Field(2048, ge=1)
    """Width of the projector, H."""
    predictor_hidden: int = Field(4096, ge=1)
    """Width of both predictors, P."""
    embedding: int = Field(256, ge=2)
    """Size of the embedding, D."""
    temperature: float = Field(0.2, gt=0)
    """Temperature of the neighbour contrast."""
    centroid_temperature: float = Field(0.1, gt=0)
    """Temperature of the centroid contrast."""
    neighbours: int = Field(5, ge=1)
    """Neighbours that make a centroid, k."""
    transformer_depth: int = Field(3, ge=1)
    """Layers of the transformer."""
    transformer_heads: int = Field(8, ge=1)
    """Attention heads of the transformer; divides the embedding."""
    transformer_dropout: Probability = 0.1
    """Dropout of the transformer."""
    positional_encoding: PositionalEncoding = "feature_axis"
    """Axis along which positions count: `feature_axis` as in the published code, `sequence_axis` as in the paper."""
    feature_scope: Scope = "rank"
    """Rows that the feature contrast correlates: those of each `rank` (published) or the `global` batch."""
    neighbour_weight: float = Field(0.5, ge=0)
    """Weight of the neighbour contrast."""
    centroid_weight: float = Field(0.5, ge=0)
    """Weight of the centroid contrast."""
    feature_weight: float = Field(0.5, ge=0)
    """Weight of the feature contrast."""
    momentum: float = Field(0.99, ge=0, le=1)
    """Momentum of the averaged copy at the start; a cosine takes it to 1.0 at the end."""
    queue: QueueSettings = QueueSettings()
    """The neighbour queue."""

    @model_validator(mode="after")
    def _consistent(self) -> "All4OneSettings":
        if self.embedding % self.transformer_heads:
            raise ValueError(
                f"transformer_heads ({self.transformer_heads}) must divide embedding ({self.embedding})"
            )
        if self.neighbours > self.queue.length:
            raise ValueError(
                f"neighbours ({self.neighbours}) must not exceed queue.length ({self.queue.length})"
            )
        return self

    def build(self, backbone: Backbone, num_classes: int) -> "All4One":
        """Make the module; see the base class."""
        return All4One(self, backbone, num_classes)


class All4One(Method):
    """The method; `momentum` is the averaged copy of backbone and projector."""

    queue: NeighbourQueue

    def __init__(self, settings: All4OneSettings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        self.projector = projector(backbone.feature_dim, s.projector_hidden, s.embedding)
        self.neighbour_predictor = predictor(s.embedding, s.predictor_hidden)
        self.centroid_predictor = predictor(s.embedding, s.predictor_hidden)
        self.transformer = CentroidTransformer(
            s.embedding, length=s.neighbours, depth=s.transformer_depth, heads=s.transformer_heads,
            dropout=s.transformer_dropout, encoding=s.positional_encoding,
        )  # fmt: skip
        self.momentum = ema.MomentumEncoder(self.backbone, self.projector)
        self.queue = NeighbourQueue(s.queue, s.embedding)

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> Representation:
        """Two views [B, 3, S, S]: the three contrasts of equation 8, each view its own forward pass."""
        s = self.settings
        keys = self._keys(views)  # V x [B, D]; first, while no activations are held for the backward pass
        found = self.queue.nearest(keys, s.neighbours)
        self.queue.start_push(keys[0], labels, ids)
        features = self.features(views)  # V x [B, F]
        z = by_view(self.projector, features)  # V x [B, D]
        predicted = by_view(self.neighbour_predictor, z)
        of_neighbours, of_predictions = self._centroids(found, by_view(self.centroid_predictor, z))

        gathered = keys_of_all([*predicted, *of_predictions])
        predicted, of_predictions = gathered[: len(z)], gathered[len(z) :]
        nearest = [n.rows[:, 0] for n in found]  # V x [B, D]
        neighbour = symmetric(partial(nce, temperature=s.temperature), nearest, predicted)
        centroid = symmetric(partial(nce, temperature=s.centroid_temperature), of_neighbours, of_predictions)
        feature = feature_contrast(keys, z, scope=s.feature_scope)

        parts = {"neighbour": neighbour, "centroid": centroid, "feature": feature}
        weights = {
            "neighbour": s.neighbour_weight,
            "centroid": s.centroid_weight,
            "feature": s.feature_weight,
        }
        terms = {name: weights[name] * part for name, part in parts.items()}
        loss = terms["neighbour"] + terms["centroid"] + terms["feature"]
        return Representation(loss, parts, features[0], z, terms, neighbours=(keys[0], found[0]))

    def _keys(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Normalised momentum embeddings in the queue's precision, [B, D] each."""
        return [F.normalize(m.to(self.queue.rows.dtype), dim=1) for m in self.momentum.embed(views)]

    def _centroids(
        self, found: Sequence[Neighbours], predicted: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Centroids [B, D] of each view's neighbours, and of its prediction with all neighbours but the last.

        One call makes all of them: the transformer has no term across sequences.
        """
        of_neighbours = [n.rows for n in found]  # V x [B, k, D]
        of_predictions = [
            torch.cat([p[:, None].to(n.rows.dtype), n.rows[:, :-1]], 1)
            for p, n in zip(predicted, found, strict=True)
        ]
        centroids = self.transformer(torch.cat(of_neighbours + of_predictions)).chunk(2 * len(found))
        return list(centroids[: len(found)]), list(centroids[len(found) :])

    def evaluation_backbones(self) -> dict[str, nn.Module]:
        """Both backbones."""
        return {"online": self.backbone, "momentum": self.momentum["backbone"]}

    def averaged(self) -> list[tuple[nn.Module, nn.Module]]:
        """Backbone and projector."""
        return [(self.momentum["backbone"], self.backbone), (self.momentum["projector"], self.projector)]

    def after_step(self, step: int, total_steps: int) -> None:
        """Move the averaged copy."""
        ema.follow(self.averaged(), step, total_steps, self.settings.momentum)
