"""Base classes of methods: a module that turns views into losses, and the settings that build it."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

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
from trainer.networks.prototypes import normalize_rows
from trainer.networks.recompute import recompute_activations

LABEL_METRICS = frozenset({"online_loss", "online_top1", "neighbor_agreement"})
"""Values that are NaN for a micro-batch without labeled rows. Means are taken over the other micro-batches."""


ClassifierViews = Literal["first", "global"]


class Output(NamedTuple):
    """Result of a forward pass."""

    loss: Tensor
    """The scalar to minimize."""
    parts: Mapping[str, Tensor]
    """Detached scalars for the log: every loss and every diagnostic."""


@dataclass(frozen=True, kw_only=True)
class MethodOutput:
    """The method's part of a forward pass."""

    loss: Tensor
    """Scalar that is minimized."""
    features: Tensor
    """Backbone features of the first view that the backbone sees, [B, F]. The online classifier uses them."""
    other_features: Sequence[Tensor] = ()
    """Backbone features of the other global views, [B, F] each, for `classifier_views: global`."""
    z: Sequence[Tensor]
    """Embeddings of the views, V x [B, D], that the loss depends on."""
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    """Scalars for the log."""
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    """Weighted terms that add up to the loss, if it has several."""
    neighbors: tuple[Tensor, Neighbors] | None = None
    """Keys of the first view [B, D], and their nearest rows in the queue."""

    @classmethod
    def weighted(
        cls,
        parts: Mapping[str, Tensor],
        weights: Mapping[str, float],
        *,
        features: Tensor,
        z: Sequence[Tensor],
        other_features: Sequence[Tensor] = (),
        neighbors: tuple[Tensor, Neighbors] | None = None,
    ) -> "MethodOutput":
        """Return the output whose loss is the sum of parts, each times its weight."""
        terms = {name: weights[name] * part for name, part in parts.items()}
        loss = torch.stack(list(terms.values())).sum()
        return cls(
            loss=loss,
            features=features,
            other_features=other_features,
            z=z,
            parts=parts,
            terms=terms,
            neighbors=neighbors,
        )


class Method(nn.Module):
    """A self-supervised method with its networks, momentum (EMA) encoder and queue.

    Subclasses compute `losses`. This class adds the online linear classifier on detached features, autocast, and the
    updates of the state. All tensors hold only this rank's rows.

    Args:
        backbone: the network to pretrain.
        num_classes: number of label classes. 0: there are no labels, and no online classifier is built.
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
        self.classifier_views: ClassifierViews = "first"
        self.log_diagnostics = False
        """Whether the next forward passes compute all diagnostics, not only those without extra cost."""
        self.step, self.total_steps = 0, 1
        """Number of finished optimizer steps, and number of steps of the run. The engine sets them before each step."""
        self.freeze_steps: dict[str, int] = {}
        """Number of steps from the start of the run in which the optimizer leaves a parameter as it is, by the name of
        the parameter. Its gradient counts in the gradient norm all the same."""
        self.unit_rows: list[str] = []
        """Names of parameters [K, D] whose rows are normalized after each step."""
        self.shared_seed = 0
        """Seed of random numbers that all ranks draw alike in the next forward pass. The engine computes it from the
        run's seed, the step and the micro-batch, so no checkpoint needs to hold it."""
        self.recompute = False
        self.skip_update: Tensor | None = None
        """1.0 ([], on the device) if the last update of the weights was left out, because another rank is lost.
        `after_step` then changes nothing."""

    @abstractmethod
    def losses(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> MethodOutput:
        """Compute the method's loss for V views of [B, 3, S, S], labels [B] (-1: none) and sample ids [B]."""

    def forward(self, views: Sequence[Tensor], labels: Tensor, ids: Tensor) -> Output:
        """Run one micro-batch: the method's loss plus the loss of the online classifier.

        The classifier's loss has gradients only for the classifier.
        """
        device, dtype = views[0].device.type, self.autocast_dtype
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            out = self.losses(views, labels, ids)
        loss, parts = out.loss, {"loss": out.loss, **out.parts, **self._health(out, labels)}
        if self.classifier is not None:
            features = [out.features, *(out.other_features if self.classifier_views == "global" else ())]
            logits = self.classifier(torch.cat(features).detach().to(self.classifier.weight.dtype))
            wanted = labels.repeat(len(features))  # one row for each row of the logits [C * B, classes]
            known = (wanted >= 0).sum()
            summed = F.cross_entropy(logits, wanted, ignore_index=-1, reduction="sum")
            loss = loss + summed / known.clamp_min(1)
            parts["online_loss"] = summed / known
            parts["online_top1"] = (logits.argmax(1) == wanted).sum() / known
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
            values |= embedding_health.neighbor_values(self.queue, *out.neighbors, self.queue.push_size)
        if pairs := self.ema_pairs():
            values["ema_distance"] = ema.distance(pairs)
        return values

    def ema_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Return every momentum network with the online network of the same name that it averages."""
        if self.momentum is None:
            return []
        return [(copy, self.get_submodule(name)) for name, copy in self.momentum.items()]

    def compile_networks(self, backend: str = "inductor") -> None:
        """Compile each network in place at its first call. The names in `state_dict` stay the same.

        Args:
            backend: what torch.compile makes of the traced graphs. `eager` runs them as they are.
        """
        # gradient fractions of the losses need a second backward through the same graph, which compiling forbids
        torch._functorch.config.donated_buffer = False
        for child in self.children():
            for network in child.values() if isinstance(child, nn.ModuleDict) else [child]:
                if network is not self.queue and network is not self.classifier:
                    network.compile(backend=backend)

    def features(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Compute the backbone features of each view, [B, F]. With `recompute`, few activations are kept for
        backward."""
        with recompute_activations() if self.recompute else nullcontext():
            return forward_per_view(self.backbone, views)

    def evaluation_backbones(self) -> dict[str, nn.Module]:
        """Return the backbones to evaluate by name: `online`, and `momentum` if the method has a momentum (EMA)
        encoder."""
        copies = {} if self.momentum is None else {"momentum": self.momentum["backbone"]}
        return {"online": self.backbone, **copies}

    def after_backward(self) -> None:
        """Add the gathered keys to the queue. Called after each micro-batch's backward pass."""
        if self.queue is not None:
            self.queue.wait()

    def after_step(self, step: int, total_steps: int) -> None:
        """Normalize the rows of `unit_rows`, then update the momentum (EMA) encoder. Called after optimizer step number
        `step`, which counts from 1."""
        for name in self.unit_rows:
            normalize_rows(self.get_parameter(name), self.skip_update)
        if self.momentum is not None:
            start, end = self.momentum.start, self.momentum.end
            ema.update(self.ema_pairs(), step, total_steps, start, self.skip_update, end)


class ViewCount(NamedTuple):
    """Number of views per image that a method accepts."""

    least: int
    most: int | None
    """None: no upper limit."""

    def takes(self, count: int) -> bool:
        """Return whether the method accepts `count` views."""
        return self.least <= count and (self.most is None or count <= self.most)

    def __str__(self) -> str:
        if self.most is None:
            return f"at least {self.least}"
        return f"{self.least}" if self.most == self.least else f"{self.least} to {self.most}"


class MethodSettings(Settings):
    """Base class of a method's settings. A subclass gives `name` a Literal default and builds its module."""

    first_names = {"embedding": "embedding_dim"}

    name: str
    """The method."""
    embedding_dim: int = Field(256, ge=2)
    """Size of the embedding, D."""
    classifier_views: ClassifierViews = "first"
    """Views from which the online classifier learns: the `first` one that the backbone sees, or every `global` view
    that it sees, as in the published code. Nothing else depends on it."""

    @property
    def num_views(self) -> ViewCount:
        """Number of views per image that the method accepts."""
        return ViewCount(2, 2)

    def build(self, backbone: Backbone, num_classes: int) -> Method:
        """Build the method around a backbone. Its weights are drawn from torch's global generator."""
        raise NotImplementedError
