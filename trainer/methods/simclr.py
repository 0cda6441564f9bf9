"""SimCLR (Chen et al., ICML 2020): contrast each view with the other view of its image against the whole batch."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from trainer.contrast.losses import nt_xent
from trainer.distributed.batch_norm import forward_per_view
from trainer.methods.base import Method, MethodOutput, MethodSettings
from trainer.networks.backbones import Backbone


class SimCLRSettings(MethodSettings):
    """Settings of SimCLR. The defaults are those of the paper's ResNet-50 on ImageNet."""

    name: Literal["simclr"] = "simclr"
    """The method."""
    projector_hidden: int = Field(2048, ge=1)
    """Width of the projector. The paper uses the size of the features."""
    embedding_dim: int = Field(128, ge=2)
    """Size of the embedding, D."""
    temperature: float = Field(0.1, gt=0)
    """Temperature of the contrast, τ."""

    def build(self, backbone: Backbone, num_classes: int) -> "SimCLR":
        """Build the module. See the base class."""
        return SimCLR(self, backbone, num_classes)


class SimCLR(Method):
    """The SimCLR module, without momentum encoder or queue.

    The projector has two linear layers without batch norm (section 2.1).
    """

    def __init__(self, settings: SimCLRSettings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        self.projector = nn.Sequential(
            nn.Linear(backbone.feature_dim, s.projector_hidden),
            nn.ReLU(inplace=True),
            nn.Linear(s.projector_hidden, s.embedding_dim),
        )

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """Compute the NT-Xent loss of algorithm 1 for two views of [B, 3, S, S], with negatives from all ranks."""
        features = self.features(views)  # V x [B, F]
        z = forward_per_view(self.projector, features)  # V x [B, D]
        return MethodOutput(
            loss=nt_xent(z, temperature=self.settings.temperature),
            features=features[0],
            other_features=features[1:],
            z=z,
        )
