"""Barlow Twins (Zbontar et al., ICML 2021): make the cross-correlation matrix of two views the identity."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from trainer.contrast.losses import barlow_twins
from trainer.distributed.batch_norm import forward_per_view
from trainer.methods.base import Method, MethodOutput, MethodSettings
from trainer.networks.backbones import Backbone
from trainer.networks.heads import expander


class BarlowTwinsSettings(MethodSettings):
    """Settings of Barlow Twins. The defaults are those of the paper."""

    name: Literal["barlow_twins"] = "barlow_twins"
    """The method."""
    projector_hidden: int = Field(8192, ge=1)
    """Width of the projector's hidden layers."""
    embedding_dim: int = Field(8192, ge=2)
    """Size of the embedding, D."""
    redundancy: float = Field(0.0051, ge=0)
    """Weight of the off-diagonal terms, λ."""
    variance_epsilon: float = Field(0.0, ge=0)
    """Number that is added to the variances of the embeddings before they are divided. The paper's equation has 0, and
    the published codes have 1e-5, from their batch norm."""
    loss_scale: float = Field(1.0, gt=0)
    """Factor of the loss. solo-learn has 0.1 for CIFAR."""

    def build(self, backbone: Backbone, num_classes: int) -> "BarlowTwins":
        """Build the module. See the base class."""
        return BarlowTwins(self, backbone, num_classes)


class BarlowTwins(Method):
    """The Barlow Twins module, without momentum encoder or queue.

    The projector's last layer has neither bias nor batch norm.
    """

    def __init__(self, settings: BarlowTwinsSettings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        self.projector = expander(backbone.feature_dim, s.projector_hidden, s.embedding_dim)

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """Compute equation 1 of the paper over the global batch, for two views of [B, 3, S, S]."""
        features = self.features(views)  # V x [B, F]
        z = forward_per_view(self.projector, features)  # V x [B, D]
        s = self.settings
        error = barlow_twins(z[0], z[1], redundancy=s.redundancy, variance_epsilon=s.variance_epsilon)
        loss = s.loss_scale * error
        return MethodOutput(loss=loss, features=features[0], other_features=features[1:], z=z)
