"""INTL (Weng et al., ICLR 2024): views agree after an iterative whitening, with a loss on its trace."""

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from trainer.contrast.whitening import intl
from trainer.distributed.batch_norm import forward_per_view
from trainer.distributed.collectives import world_size
from trainer.methods.base import Method, MethodOutput, MethodSettings, ViewCount
from trainer.networks.backbones import Backbone
from trainer.networks.heads import deep_mlp


class INTLSettings(MethodSettings):
    """Settings of INTL. The defaults are those of the authors' code for ImageNet."""

    name: Literal["intl"] = "intl"
    """The method."""
    projector_hidden: int = Field(8192, ge=1)
    """Width of the projector."""
    embedding_dim: int = Field(8192, ge=2)
    """Size of the embedding, D. It should exceed the number N of rows of a micro-batch on all ranks, because N rows of
    at most N features cannot be whitened."""
    iterations: int = Field(4, ge=1)
    """Number of Newton iterations of the whitening, T."""
    trace_weight: float | None = Field(None, ge=0)
    """Weight of the trace loss, β. None: the authors' 0.01 (log2 N - 3), but at least 0, for N rows of a micro-batch on
    all ranks."""

    @property
    def num_views(self) -> ViewCount:
        """At least two views. All others agree with the first one."""
        return ViewCount(2, None)

    def build(self, backbone: Backbone, num_classes: int) -> "INTL":
        """Build the module. See the base class."""
        return INTL(self, backbone, num_classes)

    def trace_weight_for(self, rows: int) -> float:
        """Return β for a number of rows of a micro-batch on all ranks."""
        if self.trace_weight is not None:
            return self.trace_weight
        return max(0.0, 0.01 * (math.log2(rows) - 3))


class INTL(Method):
    """The INTL module, without momentum encoder, queue or predictor.

    The authors' variant with a momentum encoder is not built. The first two layers of the projector have biases, which
    the authors leave out. The batch norm behind them removes the biases.
    """

    def __init__(self, settings: INTLSettings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        self.projector = deep_mlp(backbone.feature_dim, s.projector_hidden, s.embedding_dim)

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """Compute the agreement and the trace loss over the global batch, for V views of [B, 3, S, S]."""
        s = self.settings
        features = self.features(views)  # V x [B, F]
        z = forward_per_view(self.projector, features)  # V x [B, D]
        parts = intl(z, iterations=s.iterations)
        weights = {"invariance": 1.0, "trace": s.trace_weight_for(len(z[0]) * world_size())}
        return MethodOutput.weighted(parts, weights, features=features[0], other_features=features[1:], z=z)
