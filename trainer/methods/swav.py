"""SwAV (Caron et al., NeurIPS 2020): predict the code of one view from the other views of the image."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trainer.contrast.assignments import GLOBAL_VIEWS, cross_view_entropy, sinkhorn
from trainer.distributed.batch_norm import forward_per_view
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

    @property
    def num_views(self) -> ViewCount:
        """Two global views, and any number of small views."""
        return ViewCount(GLOBAL_VIEWS, None)

    def build(self, backbone: Backbone, num_classes: int) -> "SwAV":
        """Build the module. See the base class."""
        return SwAV(self, backbone, num_classes)


class SwAV(Method):
    """The SwAV module, without momentum encoder.

    The paper's optional queue of features for small batches is not built. Codes therefore balance the prototypes over
    one micro-batch of all ranks, and the number of prototypes should not be far above its size. Each view has its own
    batch statistics, while the authors' code takes those of all crops of one size together, and in the projector of
    all crops.
    """

    def __init__(self, settings: SwAVSettings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        self.projector = mlp(backbone.feature_dim, s.projector_hidden, s.embedding_dim)
        self.prototypes = Prototypes(s.embedding_dim, s.prototypes)
        self.freeze_steps = {"prototypes.weight": s.freeze_prototypes_steps}
        self.unit_rows = ["prototypes.weight"]

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """Compute the loss of section 3 for V views of [B, 3, S, S]: predict global views' codes from the others."""
        s = self.settings
        features = self.features(views)  # V x [B, F]
        z = forward_per_view(self.projector, features)  # V x [B, D]
        cosines = self.prototypes(torch.cat(z)).chunk(len(z))  # V x [B, K]
        codes = sinkhorn(cosines[:GLOBAL_VIEWS], epsilon=s.epsilon, iterations=s.sinkhorn_iterations)
        loss = cross_view_entropy(codes, cosines, temperature=s.temperature)
        return MethodOutput(loss=loss, features=features[0], other_features=features[1:GLOBAL_VIEWS], z=z)
