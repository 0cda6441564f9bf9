"""DINO (Caron et al., ICCV 2021): a student predicts the output of its EMA teacher for other views of the image."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trainer.contrast.assignments import GLOBAL_VIEWS, cross_view_entropy
from trainer.distributed.batch_norm import forward_per_view
from trainer.distributed.collectives import all_reduce_sum, world_size
from trainer.methods.base import Method, MethodOutput, MethodSettings, ViewCount
from trainer.networks.backbones import Backbone
from trainer.networks.ema import MomentumEncoder
from trainer.networks.heads import gelu_mlp
from trainer.networks.prototypes import WeightNormPrototypes


class DINOSettings(MethodSettings):
    """Settings of DINO. The defaults are those of the paper and of its code."""

    name: Literal["dino"] = "dino"
    """The method."""
    projector_hidden: int = Field(2048, ge=1)
    """Width of the projection head."""
    embedding_dim: int = Field(256, ge=2)
    """Size of the bottleneck before the last layer, D."""
    prototypes: int = Field(65536, ge=2)
    """Size of the output, K. Each output belongs to a row of the last layer."""
    learn_scale: bool = False
    """Whether the norms of the last layer's rows are learned. The paper keeps them at 1 for ViT-B and learns them for
    ViT-S (`norm_last_layer` of its code, the other way round)."""
    student_temperature: float = Field(0.1, gt=0)
    """Temperature of the student, τ_s."""
    teacher_temperature: float = Field(0.07, gt=0)
    """Temperature of the teacher after its warm-up, τ_t."""
    teacher_temperature_start: float = Field(0.04, gt=0)
    """Temperature of the teacher at the first step."""
    teacher_warmup: float = Field(0.1, ge=0, le=1)
    """Fraction of the run over which the teacher's temperature rises linearly. The paper's 30 epochs are a tenth of 300
    epochs."""
    center_momentum: float = Field(0.9, ge=0, le=1)
    """Momentum of the center of the teacher's outputs, m."""
    freeze_last_layer_steps: int = Field(1251, ge=0)
    """Number of steps from the start in which the last layer does not learn. The default is one epoch of ImageNet at
    the paper's global batch of 1024."""
    momentum: float = Field(0.996, ge=0, le=1)
    """Momentum of the teacher at the start, λ. It follows a cosine to 1.0 at the end."""

    @property
    def num_views(self) -> ViewCount:
        """Two global views, and any number of small views."""
        return ViewCount(GLOBAL_VIEWS, None)

    def build(self, backbone: Backbone, num_classes: int) -> "DINO":
        """Build the module. See the base class."""
        return DINO(self, backbone, num_classes)

    def teacher_temperature_at(self, step: int, total_steps: int) -> float:
        """Return the teacher's temperature of update number `step`, counted from 0. The authors' code changes it once
        per epoch instead."""
        warmup = self.teacher_warmup * total_steps
        done = min(1.0, step / warmup) if warmup else 1.0
        return self.teacher_temperature_start + done * (
            self.teacher_temperature - self.teacher_temperature_start
        )


class DINO(Method):
    """The DINO module. `momentum` is the teacher: the EMA of backbone, projection head and last layer.

    The head has no batch norm, as in the paper. In a backbone with batch norm each view has its own batch statistics,
    while the authors' code takes those of all crops of one size together.
    """

    momentum: MomentumEncoder
    center: Tensor  # [K], the same on every rank

    def __init__(self, settings: DINOSettings, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        s = self.settings = settings
        self.projector = gelu_mlp(backbone.feature_dim, s.projector_hidden, s.embedding_dim)
        self.prototypes = WeightNormPrototypes(s.embedding_dim, s.prototypes, learn_scale=s.learn_scale)
        self.freeze_steps = {
            f"prototypes.{name}": s.freeze_last_layer_steps for name, _ in self.prototypes.named_parameters()
        }
        self.momentum = MomentumEncoder(self.backbone, self.projector, s.momentum, prototypes=self.prototypes)
        self.register_buffer("center", torch.zeros(s.prototypes))

    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """Compute equation 3 for V views of [B, 3, S, S]: the teacher sees the first two, the student sees all."""
        s = self.settings
        outputs = self.momentum.embed(views[:GLOBAL_VIEWS])  # 2 x [B, K]
        temperature = s.teacher_temperature_at(self.step, self.total_steps)
        targets = [F.softmax((out - self.center) / temperature, dim=1) for out in outputs]
        self._move_center(outputs)
        features = self.features(views)  # V x [B, F]
        z = forward_per_view(self.projector, features)  # V x [B, D]
        logits = self.prototypes(torch.cat(z)).chunk(len(z))  # V x [B, K]
        loss = cross_view_entropy(targets, logits, temperature=s.student_temperature)
        return MethodOutput(loss=loss, features=features[0], other_features=features[1:GLOBAL_VIEWS], z=z)

    @torch.no_grad()
    def _move_center(self, outputs: Sequence[Tensor]) -> None:
        """Move the center toward the mean of the teacher's outputs over the rows and views of all ranks (equation 4).

        The engine puts it back if the step is undone or skipped.
        """
        rows = sum(len(out) for out in outputs) * world_size()
        mean = all_reduce_sum(torch.stack([out.sum(0) for out in outputs]).sum(0)) / rows  # [K]
        self.center.lerp_(mean, 1 - self.settings.center_momentum)
