"""NNCLR (Dwibedi et al., ICCV 2021): contrast each view's nearest neighbour with the other view's prediction."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trainer.contrast.losses import keys_of_all, nce, symmetric
from trainer.contrast.queue import NeighbourQueue, QueueSettings
from trainer.distributed.batch_norm import by_view
from trainer.methods.base import Method, MethodSettings, Representation
from trainer.networks.backbones import Backbone
from trainer.networks.heads import predictor, projector


class NNCLRSettings(MethodSettings):
    """Settings of NNCLR; the defaults are the paper's."""

    name: Literal["nnclr"] = "nnclr"
    """The method."""
    projector_hidden: int = Field(2048, ge=1)
    """Width of the projector."""
    predictor_hidden: int = Field(4096, ge=1)
    """Width of the predictor."""
    embedding: int = Field(256, ge=2)
    """Size of the embedding, D."""
    temperature: float = Field(0.1, gt=0)
    """Temperature of the contrast."""
    queue: QueueSettings = QueueSettings()
    """The support set (98,304 in the paper)."""

    def build(self, backbone: Backbone, num_classes: int) -> "NNCLR":
        """Make the module; see the base class."""
        return NNCLR(self, backbone, num_classes)


class NNCLR(Method):
    """The method: no momentum copy, the queue holds the online embeddings of the first view."""

    queue: NeighbourQueue

    def __init__(self, settings: NNCLRSettings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        self.projector = projector(backbone.feature_dim, s.projector_hidden, s.embedding)
        self.predictor = predictor(s.embedding, s.predictor_hidden)
        self.queue = NeighbourQueue(s.queue, s.embedding)

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> Representation:
        """Views of [B, 3, S, S]: the symmetric neighbour loss of equation 3."""
        features = self.features(views)  # V x [B, F]
        z = by_view(self.projector, features)  # V x [B, D]
        keys = [F.normalize(v.detach().to(self.queue.rows.dtype), dim=1) for v in z]
        found = self.queue.nearest(keys, k=1)
        loss = symmetric(
            partial(nce, temperature=self.settings.temperature),
            [n.rows[:, 0] for n in found],
            keys_of_all(by_view(self.predictor, z)),
        )
        self.queue.start_push(keys[:1], labels, ids)
        return Representation(loss, {}, features[0], z, neighbours=(keys[0], found[0]))
