"""BYOL (Grill et al., NeurIPS 2020): predict the EMA encoder's embedding of the other view, without negatives."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from trainer.contrast.losses import normalized_squared_error, symmetric
from trainer.distributed.batch_norm import forward_per_view
from trainer.methods.base import Method, MethodOutput, MethodSettings
from trainer.networks.backbones import Backbone
from trainer.networks.ema import MomentumEncoder
from trainer.networks.heads import mlp, predictor


class BYOLSettings(MethodSettings):
    """Settings of BYOL. The defaults are those of the paper."""

    name: Literal["byol"] = "byol"
    """The method."""
    projector_hidden: int = Field(4096, ge=1)
    """Width of the projector."""
    predictor_hidden: int = Field(4096, ge=1)
    """Width of the predictor."""
    embedding_dim: int = Field(256, ge=2)
    """Size of the embedding, D."""
    momentum: float = Field(0.996, ge=0, le=1)
    """Momentum of the momentum (EMA) encoder at the start. It follows a cosine to 1.0 at the end."""

    def build(self, backbone: Backbone, num_classes: int) -> "BYOL":
        """Build the module. See the base class."""
        return BYOL(self, backbone, num_classes)


class BYOL(Method):
    """The BYOL module. `momentum` is the paper's target network: the EMA of backbone and projector."""

    momentum: MomentumEncoder

    def __init__(self, settings: BYOLSettings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        self.projector = mlp(backbone.feature_dim, s.projector_hidden, s.embedding_dim)
        self.predictor = predictor(s.embedding_dim, s.predictor_hidden)
        self.momentum = MomentumEncoder(self.backbone, self.projector, s.momentum)

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """Compute equation 2 with each of two views [B, 3, S, S] as the target, and return the sum."""
        targets = self.momentum.embed(views)  # V x [B, D]
        features = self.features(views)  # V x [B, F]
        z = forward_per_view(self.projector, features)  # V x [B, D]
        predicted = forward_per_view(self.predictor, z)
        loss = 2 * symmetric(normalized_squared_error, targets, predicted)
        return MethodOutput(loss=loss, features=features[0], other_features=features[1:], z=z)
