"""ReSA (Weng et al., ICML 2025): embeddings of views predict how similar the features of the images are."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from trainer.contrast.assignments import GLOBAL_VIEWS, assign_to_images, image_entropy
from trainer.contrast.losses import gather_keys
from trainer.distributed.batch_norm import forward_per_view
from trainer.methods.base import Method, MethodOutput, MethodSettings, ViewCount
from trainer.networks.backbones import Backbone
from trainer.networks.ema import MomentumEncoder
from trainer.networks.heads import predictor, projector


class ReSASettings(MethodSettings):
    """Settings of ReSA. The defaults are those of the authors' code for ImageNet."""

    name: Literal["resa"] = "resa"
    """The method."""
    projector_hidden: int = Field(2048, ge=1)
    """Width of the projector."""
    predictor_hidden: int = Field(2048, ge=0)
    """Width of the predictor. 0: there is no predictor, as in the authors' code for CIFAR."""
    embedding_dim: int = Field(512, ge=2)
    """Size of the embedding, D."""
    temperature: float = Field(0.4, gt=0)
    """Temperature of the predictions, τ."""
    epsilon: float = Field(0.05, ge=0.02)
    """Weight of the entropy of the assignment. A larger one makes it smoother. Below the bound, exponentials leave the
    range of float32."""
    sinkhorn_iterations: int = Field(3, ge=1)
    """Number of Sinkhorn-Knopp iterations."""
    momentum: float = Field(0.996, ge=0, le=1)
    """Momentum of the momentum (EMA) encoder at the start. It follows a cosine to 1.0 at the end."""

    @property
    def num_views(self) -> ViewCount:
        """Two global views, and any number of small views."""
        return ViewCount(GLOBAL_VIEWS, None)

    def build(self, backbone: Backbone, num_classes: int) -> "ReSA":
        """Build the module. See the base class."""
        return ReSA(self, backbone, num_classes)


class ReSA(Method):
    """The ReSA module. `momentum` is the EMA of backbone and projector.

    The first view gives the assignment, and the authors augment it weakly, by crop and flip only. It compares the
    online features of a rank's images with the EMA features of the images of all ranks. All pairs of different views
    share it. The authors update the EMA encoder when a step begins. Here the same update ends the step before, with the
    momentum that the cosine has there.
    """

    momentum: MomentumEncoder

    def __init__(self, settings: ReSASettings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        self.projector = projector(backbone.feature_dim, s.projector_hidden, s.embedding_dim, affine=False)
        self.predictor = predictor(s.embedding_dim, s.predictor_hidden) if s.predictor_hidden else None
        self.momentum = MomentumEncoder(self.backbone, self.projector, s.momentum)

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """Compute the cross-entropy of assignment and predictions for V views of [B, 3, S, S].

        The EMA encoder sees the first two views.
        """
        s = self.settings
        targets, embeddings = self.momentum.features_and_embeddings(views[:GLOBAL_VIEWS])
        images, *keys = gather_keys([targets[0], *embeddings])  # [world * B, F], 2 x [world * B, D]
        features = self.features(views)  # V x [B, F]
        z = forward_per_view(self.projector, features)  # V x [B, D]
        queries = z if self.predictor is None else forward_per_view(self.predictor, z)
        assignment = assign_to_images(
            features[0], images, epsilon=s.epsilon, iterations=s.sinkhorn_iterations
        )
        loss = image_entropy(assignment, queries, keys, temperature=s.temperature)
        return MethodOutput(loss=loss, features=features[0], other_features=features[1:GLOBAL_VIEWS], z=z)
