"""What every method is: a module that turns views into losses, and settings that build it."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from data_pipelines.settings import Settings
from trainer.contrast import embedding_health
from trainer.contrast.queue import NeighborQueue, Neighbors
from trainer.distributed.batch_norm import forward_per_view
from trainer.networks import ema
from trainer.networks.backbones import Backbone
from trainer.networks.recompute import recompute_activations

LABEL_METRICS = frozenset({"online_loss", "online_top1", "neighbor_agreement"})
"""Values that are NaN where a micro-batch has no labeled rows; means are those of the others."""


class Output(NamedTuple):
    """What a forward pass yields."""

    loss: Tensor
    """Scalar that is minimized."""
    parts: Mapping[str, Tensor]
    """Detached scalars for the log: each loss and each health value."""


@dataclass(frozen=True, kw_only=True)
class MethodOutput:
    """A method's own part of a forward pass."""

    loss: Tensor
    """Scalar that is minimized."""
    features: Tensor
    """Backbone features of the first view that the backbone sees, [B, F]: what the online classifier reads."""
    z: Sequence[Tensor]
    """Embeddings of the views, V x [B, D], that the loss depends on."""
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    """Scalars for the log."""
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    """Weighted terms that add up to the loss, where it has several."""
    neighbors: tuple[Tensor, Neighbors] | None = None
    """Keys of the first view [B, D] with what the queue holds nearest to them."""


class Method(nn.Module):
    """A self-supervised method with its networks, momentum copies and queue.

    Subclasses compute `losses`; the online linear classifier on detached features comes with this class, and so do
    autocast and the moments at which state moves. All tensors are this rank's rows.

    Args:
        backbone: the network that is pretrained.
        num_classes: classes of the labels, 0 where there are none (then no online classifier is made).
    """

    queue: NeighborQueue | None
    momentum: ema.MomentumEncoder | None

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(backbone.feature_dim, num_classes) if num_classes else None
        self.queue = None
        self.momentum = None
        self.autocast_dtype: torch.dtype | None = None
        self.log_diagnostics = False
        """Whether the next forward passes compute all health values, rather than those that cost nothing."""
        self.recompute = False

    @abstractmethod
    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """The method's loss for V views of [B, 3, S, S], labels [B] (-1: none) and sample ids [B]."""

    def forward(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> Output:
        """One micro-batch: the method's loss plus the online classifier's, which moves nothing but itself."""
        device, dtype = views[0].device.type, self.autocast_dtype
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            out = self.losses(views, labels, ids)
        loss, parts = out.loss, {"loss": out.loss, **out.parts, **self._health(out, labels)}
        if self.classifier is not None:
            logits = self.classifier(out.features.detach().to(self.classifier.weight.dtype))  # [B, classes]
            known = (labels >= 0).sum()
            summed = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
            loss = loss + summed / known.clamp_min(1)
            parts["online_loss"] = summed / known
            parts["online_top1"] = (logits.argmax(1) == labels).sum() / known
        return Output(loss, {name: value.detach() for name, value in parts.items()})

    def _health(self, out: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        values = {"z_std": torch.stack([embedding_health.feature_std(v) for v in out.z]).mean()}
        if out.neighbors is not None and self.queue is not None:
            values["neighbor_agreement"] = self.queue.agreement(out.neighbors[1], labels)
        if not self.log_diagnostics:
            return values
        values |= {
            "z_rank": embedding_health.effective_rank(out.z[0]),
            "features_std": embedding_health.feature_std(out.features),
            "features_rank": embedding_health.effective_rank(out.features),
        }
        if out.terms:
            shares = embedding_health.gradient_shares(out.terms, out.z)
            values |= {f"{name}_share": share for name, share in shares.items()}
        if out.neighbors is not None and self.queue is not None:
            values |= embedding_health.neighbor_values(self.queue, *out.neighbors, self.queue.num_pending)
        if pairs := self.ema_pairs():
            values["ema_distance"] = ema.distance(pairs)
        return values

    def ema_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Every momentum copy with the network that it follows: the method's own of the same name."""
        if self.momentum is None:
            return []
        return [(copy, self.get_submodule(name)) for name, copy in self.momentum.items()]

    def compile_networks(self) -> None:
        """Have torch compile each network at its first call, in place: names in `state_dict` stay."""
        # the shares of the losses take a second way back through the same graph, which it would not allow
        torch._functorch.config.donated_buffer = False
        for child in self.children():
            for network in child.values() if isinstance(child, nn.ModuleDict) else [child]:
                if network is not self.queue and network is not self.classifier:
                    network.compile()

    def features(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Backbone features of each view, [B, F]; with `recompute` few activations are kept for the backward pass."""
        with recompute_activations() if self.recompute else nullcontext():
            return forward_per_view(self.backbone, views)

    def evaluation_backbones(self) -> dict[str, nn.Module]:
        """The backbones that evaluation judges, by name; `online` always, `momentum` where the method has one."""
        copies = {} if self.momentum is None else {"momentum": self.momentum["backbone"]}
        return {"online": self.backbone, **copies}

    def after_backward(self) -> None:
        """Called after each micro-batch's backward pass: what was gathered during it enters the queue."""
        if self.queue is not None:
            self.queue.wait()

    def after_step(self, step: int, total_steps: int) -> None:
        """Called after optimizer step number `step` (from 1): the momentum copies move."""
        if self.momentum is not None:
            ema.update(self.ema_pairs(), step, total_steps, self.momentum.start)


class ViewCount(NamedTuple):
    """How many views of an image a method takes."""

    least: int
    most: int | None
    """None: any number from `least` on."""

    def takes(self, count: int) -> bool:
        """Whether so many are right."""
        return self.least <= count and (self.most is None or count <= self.most)

    def __str__(self) -> str:
        if self.most is None:
            return f"at least {self.least}"
        return f"{self.least}" if self.most == self.least else f"{self.least} to {self.most}"


class MethodSettings(Settings):
    """Base of a method's settings. A subclass gives `name` a Literal default and builds its module."""

    first_names = {"embedding": "embedding_dim"}

    name: str
    """The method."""
    embedding_dim: int = Field(256, ge=2)
    """Size of the embedding, D."""

    @property
    def num_views(self) -> ViewCount:
        """Views of an image that the method takes."""
        return ViewCount(2, 2)

    def build(self, backbone: Backbone, num_classes: int) -> Method:
        """Make the method around a backbone, with weights drawn from torch's global generator."""
        raise NotImplementedError
