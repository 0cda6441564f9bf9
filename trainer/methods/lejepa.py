"""LeJEPA (Balestriero, LeCun 2025, arXiv 2511.08544): views that predict their center, and Gaussian embeddings."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from trainer.contrast.losses import distance_to_center, sigreg
from trainer.distributed.batch_norm import forward_per_view
from trainer.methods.base import Method, MethodOutput, MethodSettings, ViewCount
from trainer.networks.backbones import Backbone
from trainer.networks.heads import deep_mlp


class LeJEPASettings(MethodSettings):
    """Settings of LeJEPA. The loss has the defaults that the paper recommends, the head those of the authors' code."""

    name: Literal["lejepa"] = "lejepa"
    """The method."""
    projector_hidden: int = Field(2048, ge=1)
    """Width of the hidden layers of the projector."""
    embedding_dim: int = Field(128, ge=2)
    """Size of the embedding, D."""
    sigreg_weight: float = Field(0.05, ge=0, le=1)
    """Weight of SIGReg, λ. The prediction loss has the weight 1 - λ."""
    global_views: int = Field(2, ge=1)
    """Number of global views, which come first. Their mean is what all views predict. The paper uses all views with a
    backbone that is no vision transformer."""
    num_directions: int = Field(1024, ge=1)
    """Number of random directions of each step, M. The paper calls them slices."""
    integration_points: int = Field(17, ge=3)
    """Number of points of the trapezoidal rule over the whole interval. It is odd."""
    integration_limit: float = Field(5, gt=0)
    """The integral is taken from minus this value to this value."""

    @field_validator("integration_points")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"integration_points must be odd, not {value}")
        return value

    @property
    def num_views(self) -> ViewCount:
        """The global views, and any number of further ones."""
        return ViewCount(max(2, self.global_views), None)

    def build(self, backbone: Backbone, num_classes: int) -> "LeJEPA":
        """Build the module. See the base class."""
        return LeJEPA(self, backbone, num_classes)


class LeJEPA(Method):
    """The LeJEPA module, without momentum encoder, queue or predictor.

    Batch norm has the statistics of each view, as in all methods here. In the authors' code it has those of all views.
    """

    def __init__(self, settings: LeJEPASettings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        self.projector = deep_mlp(backbone.feature_dim, s.projector_hidden, s.embedding_dim)

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """Compute algorithm 2 of the paper over the global batch, for V views of [B, 3, S, S]."""
        s = self.settings
        features = self.features(views)  # V x [B, F]
        z = forward_per_view(self.projector, features)  # V x [B, D]
        parts = {
            "prediction": distance_to_center(z, global_views=s.global_views),
            "sigreg": sigreg(z, self._directions(), points=s.integration_points, limit=s.integration_limit),
        }
        weights = {"prediction": 1 - s.sigreg_weight, "sigreg": s.sigreg_weight}
        return MethodOutput.weighted(
            parts, weights, features=features[0], other_features=features[1 : s.global_views], z=z
        )

    def _directions(self) -> Tensor:
        """Draw unit vectors [D, M] from the seed that all ranks share. A generator on the device needs no wait."""
        like = next(self.projector.parameters())
        generator = torch.Generator(like.device).manual_seed(self.shared_seed)
        size = (self.settings.embedding_dim, self.settings.num_directions)
        return F.normalize(
            torch.randn(size, generator=generator, dtype=like.dtype, device=like.device), dim=0
        )
