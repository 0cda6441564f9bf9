"""NNCLR (Dwibedi et al., ICCV 2021): contrast each view's nearest neighbor with the other view's prediction."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trainer.contrast.losses import gather_keys, info_nce, symmetric
from trainer.contrast.queue import NeighborQueue, QueueSettings
from trainer.distributed.batch_norm import forward_per_view
from trainer.methods.base import Method, MethodOutput, MethodSettings
from trainer.networks.backbones import Backbone
from trainer.networks.heads import predictor, projector


class NNCLRSettings(MethodSettings):
    """Settings of NNCLR. The defaults are those of the paper."""

    name: Literal["nnclr"] = "nnclr"
    """The method."""
    projector_hidden: int = Field(2048, ge=1)
    """Width of the projector."""
    predictor_hidden: int = Field(4096, ge=1)
    """Width of the predictor."""
    embedding_dim: int = Field(256, ge=2)
    """Size of the embedding, D."""
    temperature: float = Field(0.1, gt=0)
    """Temperature of the contrast."""
    queue: QueueSettings = QueueSettings()
    """The support set. The paper's has 98,304 keys."""

    def build(self, backbone: Backbone, num_classes: int) -> "NNCLR":
        """Build the module. See the base class."""
        return NNCLR(self, backbone, num_classes)


class NNCLR(Method):
    """The NNCLR module, without momentum encoder. The queue holds online embeddings of the first view."""

    queue: NeighborQueue

    def __init__(self, settings: NNCLRSettings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        self.projector = projector(backbone.feature_dim, s.projector_hidden, s.embedding_dim)
        self.predictor = predictor(s.embedding_dim, s.predictor_hidden)
        self.queue = NeighborQueue(s.queue, s.embedding_dim)

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """Compute the symmetric neighbor loss of equation 3 for views of [B, 3, S, S]."""
        features = self.features(views)  # V x [B, F]
        z = forward_per_view(self.projector, features)  # V x [B, D]
        keys = [F.normalize(v.detach().to(self.queue.rows.dtype), dim=1) for v in z]
        found = self.queue.nearest(keys, k=1)
        loss = symmetric(
            partial(info_nce, temperature=self.settings.temperature),
            [n.rows[:, 0] for n in found],
            gather_keys(forward_per_view(self.predictor, z)),
        )
        self.queue.enqueue_async(keys[:1], labels, ids)
        return MethodOutput(
            loss=loss, features=features[0], other_features=features[1:], z=z, neighbors=(keys[0], found[0])
        )
