"""VICReg (Bardes, Ponce, LeCun, ICLR 2022): invariant views, features that vary, and features that are decorrelated."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from trainer.contrast.losses import vicreg
from trainer.distributed.batch_norm import forward_per_view
from trainer.methods.base import Method, MethodOutput, MethodSettings
from trainer.networks.backbones import Backbone
from trainer.networks.heads import expander


class VICRegSettings(MethodSettings):
    """Settings of VICReg. The defaults are those of the paper."""

    name: Literal["vicreg"] = "vicreg"
    """The method."""
    projector_hidden: int = Field(8192, ge=1)
    """Width of the hidden layers of the projector. The paper calls it the expander."""
    embedding_dim: int = Field(8192, ge=2)
    """Size of the embedding, D."""
    invariance_weight: float = Field(25, ge=0)
    """Weight of the distance between views, λ."""
    variance_weight: float = Field(25, ge=0)
    """Weight of the hinge on each feature's standard deviation, μ."""
    covariance_weight: float = Field(1, ge=0)
    """Weight of the covariances of different features, ν."""

    def build(self, backbone: Backbone, num_classes: int) -> "VICReg":
        """Build the module. See the base class."""
        return VICReg(self, backbone, num_classes)


class VICReg(Method):
    """The VICReg module, without momentum encoder, queue or predictor."""

    def __init__(self, settings: VICRegSettings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        self.projector = expander(backbone.feature_dim, s.projector_hidden, s.embedding_dim)

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """Compute equation 6 of the paper over the global batch, for two views of [B, 3, S, S]."""
        s = self.settings
        features = self.features(views)  # V x [B, F]
        z = forward_per_view(self.projector, features)  # V x [B, D]
        parts = vicreg(z[0], z[1])
        weights = {
            "invariance": s.invariance_weight,
            "variance": s.variance_weight,
            "covariance": s.covariance_weight,
        }
        return MethodOutput.weighted(parts, weights, features=features[0], other_features=features[1:], z=z)
