"""MSF (Koohpayegani, Tejankar, Pirsiavash, ICCV 2021): shift each prediction to the mean of its target's neighbors."""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from data_pipelines.errors import UserError
from trainer.contrast.losses import mean_shift
from trainer.contrast.queue import NeighborQueue, Neighbors, QueueSettings
from trainer.distributed.batch_norm import forward_per_view
from trainer.methods.base import Method, MethodOutput, MethodSettings
from trainer.networks.backbones import Backbone
from trainer.networks.ema import MomentumEncoder
from trainer.networks.heads import mlp, predictor


class MSFSettings(MethodSettings):
    """Settings of MSF. The defaults are those of the authors' code for ResNet-50.

    That code derives the widths from the size F of the features: 2F for the hidden layers, and F / 4 for the embedding.
    """

    name: Literal["msf"] = "msf"
    """The method."""
    projector_hidden: int = Field(4096, ge=1)
    """Width of the projector."""
    predictor_hidden: int = Field(4096, ge=1)
    """Width of the predictor."""
    embedding_dim: int = Field(512, ge=2)
    """Size of the embedding, D."""
    num_neighbors: int = Field(5, ge=1)
    """Number of neighbors, k. The target itself is the first of them, so that 1 is BYOL with one target view."""
    momentum: float = Field(0.99, ge=0, le=1)
    """Momentum of the momentum (EMA) encoder at the start."""
    momentum_end: float = Field(0.99, ge=0, le=1)
    """Momentum at the end, to which a cosine leads. With the value at the start it is constant, as in the paper."""
    queue: QueueSettings = QueueSettings(size=128_000)
    """The memory bank of targets. It must hold the images of a micro-batch. The authors' largest has 1,024,000 keys."""

    @model_validator(mode="after")
    def _consistent(self) -> "MSFSettings":
        if self.num_neighbors > self.queue.size:
            raise ValueError(
                f"num_neighbors ({self.num_neighbors}) must not exceed queue.size ({self.queue.size})"
            )
        return self

    def build(self, backbone: Backbone, num_classes: int) -> "MSF":
        """Build the module. See the base class."""
        return MSF(self, backbone, num_classes)


class MSF(Method):
    """The MSF module. `momentum` is the paper's target encoder. The queue holds its embeddings.

    The first view is the query, which the authors augment strongly. The second one is the target, which they augment
    weakly. The loss has no second half with exchanged roles. The authors shuffle the target's images over GPUs, because
    their batch norm has the statistics of each GPU. Here it has those of the global batch.
    """

    queue: NeighborQueue
    momentum: MomentumEncoder

    def __init__(self, settings: MSFSettings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        self.projector = mlp(backbone.feature_dim, s.projector_hidden, s.embedding_dim)
        self.predictor = predictor(s.embedding_dim, s.predictor_hidden)
        self.momentum = MomentumEncoder(self.backbone, self.projector, s.momentum, s.momentum_end)
        self.queue = NeighborQueue(s.queue, s.embedding_dim)

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """Compute the distance of the query to the target's neighbors, for two views of [B, 3, S, S].

        Raises:
            UserError: the queue cannot hold the images of a micro-batch.
        """
        targets = self.momentum.embed(views[1:])  # 1 x [B, D]
        keys = [F.normalize(m.to(self.queue.rows.dtype), dim=1) for m in targets]
        self.queue.enqueue_async(keys, labels, ids)
        if self.queue.push_size > self.settings.queue.size:
            raise UserError(
                f"the queue of {self.settings.queue.size} keys cannot hold a micro-batch of {self.queue.push_size}",
                fix="set method.queue.size to at least train.global_batch",
            )
        features = self.features(views[:1])  # 1 x [B, F]
        z = forward_per_view(self.projector, features)  # 1 x [B, D]
        predicted = forward_per_view(self.predictor, z)
        # As in the authors' code, the targets of all ranks enter the queue before the search. Each target finds itself
        # first, and may find others of its batch. Their gather has run since the online networks began. It would have
        # to end after the backward pass anyway.
        self.queue.wait()
        found = self.queue.nearest(keys, self.settings.num_neighbors)[0]
        loss = mean_shift(predicted[0], found.rows)
        # A target's agreement with itself says nothing.
        others = Neighbors(found.rows[:, 1:], found.indices[:, 1:])
        nearest = (keys[0], others) if self.settings.num_neighbors > 1 else None
        return MethodOutput(loss=loss, features=features[0], z=z, neighbors=nearest)
