"""SimSiam (Chen, He, CVPR 2021): predict the embedding of the other view, which takes no gradient."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from trainer.contrast.losses import negative_cosine, symmetric
from trainer.distributed.batch_norm import forward_per_view
from trainer.methods.base import Method, MethodOutput, MethodSettings
from trainer.networks.backbones import Backbone
from trainer.networks.heads import predictor, projector


class SimSiamSettings(MethodSettings):
    """Settings of SimSiam. The defaults are those of the paper and of its code for ResNet-50 on ImageNet."""

    name: Literal["simsiam"] = "simsiam"
    """The method."""
    projector_layers: Literal[2, 3] = 3
    """Number of linear layers of the projector. The paper has 2 for CIFAR-10."""
    projector_hidden: int = Field(2048, ge=1)
    """Width of the projector. The authors' code takes the size of the features."""
    predictor_hidden: int = Field(512, ge=1)
    """Width of the predictor."""
    embedding_dim: int = Field(2048, ge=2)
    """Size of the embedding, D."""

    def build(self, backbone: Backbone, num_classes: int) -> "SimSiam":
        """Build the module. See the base class."""
        return SimSiam(self, backbone, num_classes)


class SimSiam(Method):
    """The SimSiam module, without momentum encoder, queue or negatives.

    The layers in front of a batch norm have biases, which the authors leave out. The batch norm removes the biases. The
    learning rate of the predictor falls like that of all weights, as in section 4 of the paper. The command that the
    authors' code recommends keeps it constant, which the paper found a little better.
    """

    def __init__(self, settings: SimSiamSettings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        self.projector = projector(
            backbone.feature_dim,
            s.projector_hidden,
            s.embedding_dim,
            layers=s.projector_layers,
            affine=False,
        )
        self.predictor = predictor(s.embedding_dim, s.predictor_hidden)

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """Compute equation 2 for two views of [B, 3, S, S]."""
        features = self.features(views)  # V x [B, F]
        z = forward_per_view(self.projector, features)  # V x [B, D]
        predicted = forward_per_view(self.predictor, z)
        loss = symmetric(negative_cosine, z, predicted)
        return MethodOutput(loss=loss, features=features[0], other_features=features[1:], z=z)
