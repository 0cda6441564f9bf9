"""What every method is: a module that turns views into losses, and settings that build it."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_pipelines.settings import Settings
from trainer.backbones import Backbone
from trainer.queue import NeighbourQueue


class Output(NamedTuple):
    """What a forward pass yields."""

    loss: Tensor
    """Scalar that is minimised."""
    parts: Mapping[str, Tensor]
    """Detached scalars for the log: each loss and each health value."""


class Representation(NamedTuple):
    """A method's own part of a forward pass."""

    loss: Tensor
    """Scalar that is minimised."""
    parts: Mapping[str, Tensor]
    """Scalars for the log."""
    features: Tensor
    """Backbone features of the first view, [B, F]: what the online classifier reads."""


class Method(nn.Module):
    """A self-supervised method with its networks, momentum copies and queue.

    Subclasses compute `losses`; the online linear classifier on detached features comes with this class, and so do
    autocast and the moments at which state moves. All tensors are this rank's rows.

    Args:
        backbone: the network that is pretrained.
        num_classes: classes of the labels, 0 where there are none (then no online classifier is made).
    """

    queue: NeighbourQueue | None

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(backbone.feature_dim, num_classes) if num_classes else None
        self.queue = None
        self.autocast_dtype: torch.dtype | None = None

    @abstractmethod
    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> Representation:
        """The method's loss for V views of [B, 3, S, S], labels [B] (-1: none) and sample ids [B]."""

    def forward(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> Output:
        """One micro-batch: the method's loss plus the online classifier's, which moves nothing but itself."""
        device, dtype = views[0].device.type, self.autocast_dtype
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            out = self.losses(views, labels, ids)
        loss, parts = out.loss, {"loss": out.loss, **out.parts}
        if self.classifier is not None:
            logits = self.classifier(out.features.detach().to(self.classifier.weight.dtype))  # [B, classes]
            known = (labels >= 0).sum().clamp_min(1)
            online = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / known
            loss = loss + online
            parts["online_loss"] = online
            parts["online_top1"] = (logits.argmax(1) == labels).sum() / known
        return Output(loss, {name: value.detach() for name, value in parts.items()})

    def compile_networks(self) -> None:
        """Have torch compile each network at its first call, in place: names in `state_dict` stay."""
        for child in self.children():
            for network in child.values() if isinstance(child, nn.ModuleDict) else [child]:
                if network is not self.queue and network is not self.classifier:
                    network.compile()

    def evaluation_backbones(self) -> dict[str, nn.Module]:
        """The backbones that evaluation judges, by name; `online` always, `momentum` where the method has one."""
        return {"online": self.backbone}

    def after_backward(self) -> None:
        """Called after each micro-batch's backward pass: what was gathered during it enters the queue."""
        if self.queue is not None:
            self.queue.finish_push()

    def after_step(self, step: int, total_steps: int) -> None:
        """Called after optimiser step number `step` (from 1): momentum copies move here."""


class MethodSettings(Settings):
    """Base of a method's settings. A subclass gives `name` a Literal default and builds its module."""

    num_views: ClassVar[int] = 2
    """Views of an image that the method takes."""

    name: str
    """The method."""

    def build(self, backbone: Backbone, num_classes: int) -> Method:
        """Make the method around a backbone, with weights drawn from torch's global generator."""
        raise NotImplementedError


def embedding_spread(z: Sequence[Tensor]) -> Tensor:
    """Standard deviation over the batch of normalised embeddings (V x [B, D]), mean over features and views.

    It is 0 when the embeddings have collapsed to a point, and 1 / sqrt(D) when they fill the sphere.
    """
    stacked = torch.stack([v.detach() for v in z])  # [V, B, D]
    return (
        F.normalize(stacked.to(torch.promote_types(stacked.dtype, torch.float32)), dim=-1).std(dim=1).mean()
    )
