"""SwAV (Caron et al., NeurIPS 2020): predict the code of one view from the other views of the image."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trainer.contrast.assignments import GLOBAL_VIEWS, cross_view_entropy, sinkhorn
from trainer.contrast.losses import full_precision
from trainer.contrast.queue import NeighborQueue, QueueSettings
from trainer.distributed.batch_norm import forward_per_view
from trainer.distributed.collectives import rank, world_size
from trainer.methods.base import Method, MethodOutput, MethodSettings, ViewCount
from trainer.networks.backbones import Backbone
from trainer.networks.heads import mlp
from trainer.networks.prototypes import Prototypes


class SwAVSettings(MethodSettings):
    """Settings of SwAV. The defaults are those of the paper and of its code."""

    name: Literal["swav"] = "swav"
    """The method."""
    projector_hidden: int = Field(2048, ge=1)
    """Width of the projector."""
    embedding_dim: int = Field(128, ge=2)
    """Size of the embedding, D."""
    prototypes: int = Field(3000, ge=2)
    """Number of prototypes, K."""
    temperature: float = Field(0.1, gt=0)
    """Temperature of the predictions, τ."""
    epsilon: float = Field(0.05, ge=0.02)
    """Weight of the entropy of the codes, ε. A larger one makes codes smoother. Below the bound, exponentials leave the
    range of float32."""
    sinkhorn_iterations: int = Field(3, ge=1)
    """Number of Sinkhorn-Knopp iterations."""
    freeze_prototypes_steps: int = Field(313, ge=0)
    """Number of steps from the start in which the prototypes do not learn. The default is one epoch of ImageNet at the
    paper's global batch of 4096."""
    queue_size: int = Field(0, ge=0)
    """Number of images whose embeddings help to balance the codes, for batches with fewer images than prototypes
    (section 4.3: 3,840 at a batch of 256). 0: no queue."""
    queue_from_step: int = Field(0, ge=0)
    """First step that puts embeddings into the queue. It is used once it is full. The paper starts it when the features
    no longer change fast."""

    @property
    def num_views(self) -> ViewCount:
        """Two global views, and any number of small views."""
        return ViewCount(GLOBAL_VIEWS, None)

    def build(self, backbone: Backbone, num_classes: int) -> "SwAV":
        """Build the module. See the base class."""
        return SwAV(self, backbone, num_classes)


class SwAV(Method):
    """The SwAV module, without momentum encoder.

    Codes balance the prototypes over one micro-batch of all ranks, and over the queue if there is one. Without a queue
    the number of prototypes should not be far above the size of a micro-batch. A row of the queue holds both global
    views of an image. Every rank has the whole queue, and counts its part of the rows. Each view has its own batch
    statistics, while the authors' code takes those of all crops of one size together, and in the projector of all
    crops.
    """

    def __init__(self, settings: SwAVSettings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        self.projector = mlp(backbone.feature_dim, s.projector_hidden, s.embedding_dim)
        self.prototypes = Prototypes(s.embedding_dim, s.prototypes)
        self.freeze_steps = {"prototypes.weight": s.freeze_prototypes_steps}
        self.unit_rows = ["prototypes.weight"]
        if s.queue_size:
            self.queue = NeighborQueue(QueueSettings(size=s.queue_size), GLOBAL_VIEWS * s.embedding_dim)

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """Compute the loss of section 3 for V views of [B, 3, S, S]: predict global views' codes from the others."""
        s = self.settings
        features = self.features(views)  # V x [B, F]
        z = forward_per_view(self.projector, features)  # V x [B, D]
        cosines = self.prototypes(torch.cat(z)).chunk(len(z))  # V x [B, K]
        codes = self._codes(cosines[:GLOBAL_VIEWS])
        if self.queue is not None and self.step >= s.queue_from_step:
            keys = [F.normalize(v.detach().to(self.queue.rows.dtype), dim=1) for v in z[:GLOBAL_VIEWS]]
            self.queue.enqueue_async([torch.cat(keys, dim=1)], labels, ids)
        loss = cross_view_entropy(codes, cosines, temperature=s.temperature)
        return MethodOutput(loss=loss, features=features[0], other_features=features[1:GLOBAL_VIEWS], z=z)

    def _codes(self, cosines: Sequence[Tensor]) -> list[Tensor]:
        """Return the codes of this rank's rows, [B, K] for each global view."""
        s = self.settings
        assign = partial(sinkhorn, epsilon=s.epsilon, iterations=s.sinkhorn_iterations)
        if self.queue is None or self.step < s.queue_from_step:
            return assign(cosines)
        share = slice(rank(), None, world_size())
        kept = [
            _cosines(rows, self.prototypes.weight)
            for rows in self.queue.rows[share].chunk(GLOBAL_VIEWS, dim=1)
        ]
        # The device decides whether the queue counts, so that the host need not wait for it.
        counts = (self.queue.ids >= 0).all().to(kept[0].dtype).expand(len(kept[0]))
        weights = torch.cat([counts, counts.new_ones(len(cosines[0]))])
        codes = assign([torch.cat(rows) for rows in zip(kept, cosines, strict=True)], weights=weights)
        return [rows[len(kept[0]) :] for rows in codes]


@torch.no_grad()
@full_precision
def _cosines(rows: Tensor, prototypes: Tensor) -> Tensor:
    """Return the cosines of unit rows [Q, D] with the prototypes [K, D], [Q, K]."""
    return rows @ prototypes.T
