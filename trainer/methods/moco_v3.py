"""MoCo v3 (Chen, Xie, He, ICCV 2021): contrast predictions with the EMA encoder's embeddings of the other view."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from trainer.contrast.losses import gather_keys, info_nce, symmetric
from trainer.distributed.batch_norm import forward_per_view
from trainer.methods.base import Method, MethodOutput, MethodSettings
from trainer.networks.backbones import Backbone
from trainer.networks.ema import MomentumEncoder
from trainer.networks.heads import predictor, projector


class MoCoV3Settings(MethodSettings):
    """Settings of MoCo v3. The defaults are those of the paper."""

    name: Literal["moco_v3"] = "moco_v3"
    """The method."""
    projector_hidden: int = Field(4096, ge=1)
    """Width of the projector."""
    predictor_hidden: int = Field(4096, ge=1)
    """Width of the predictor."""
    embedding_dim: int = Field(256, ge=2)
    """Size of the embedding, D."""
    temperature: float = Field(0.2, gt=0)
    """Temperature of the contrast, τ. The default is the paper's for vision transformers; the authors use 1.0 for
    ResNet-50."""
    momentum: float = Field(0.99, ge=0, le=1)
    """Momentum of the momentum (EMA) encoder at the start. It follows a cosine to 1.0 at the end."""
    freeze_patches: bool = True
    """Whether the patch projection of a vision transformer stays at its random initialization, for stability (section
    4.2)."""

    def build(self, backbone: Backbone, num_classes: int) -> "MoCoV3":
        """Build the module. See the base class."""
        return MoCoV3(self, backbone, num_classes)


class MoCoV3(Method):
    """The MoCo v3 module. `momentum` is the EMA of backbone and projector.

    Two details differ from the authors' code. The heads end in a batch norm with scale and offset, which the authors
    leave out. The projector always has three layers, while theirs has two for a ResNet and three for a vision
    transformer.
    """

    momentum: MomentumEncoder

    def __init__(self, settings: MoCoV3Settings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        patches = getattr(backbone, "patch_embed", None)  # timm's name
        if s.freeze_patches and patches is not None:
            patches.requires_grad_(False)
        self.projector = projector(backbone.feature_dim, s.projector_hidden, s.embedding_dim)
        self.predictor = predictor(s.embedding_dim, s.predictor_hidden).append(
            nn.BatchNorm1d(s.embedding_dim)
        )
        self.momentum = MomentumEncoder(self.backbone, self.projector, s.momentum)

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """Compute algorithm 1 for two views of [B, 3, S, S]: the sum of two contrasts, each times 2τ."""
        tau = self.settings.temperature
        keys = gather_keys(self.momentum.embed(views))  # V x [world * B, D]
        features = self.features(views)  # V x [B, F]
        z = forward_per_view(self.projector, features)  # V x [B, D]
        queries = forward_per_view(self.predictor, z)
        loss = 4 * tau * symmetric(partial(info_nce, temperature=tau), queries, keys)
        return MethodOutput(loss=loss, features=features[0], other_features=features[1:], z=z)
