"""The published All4One step in plain torch, line by line: what `benchmarks/step.py` compares ours with.

Every view is scored against the queue by itself, the whole transformer runs once for each of the four sequences, every
loss gathers for itself, and the optimizer and the averaged copy go through their parameters one by one. Written after
the paper and the published code (Estepa et al., ICCV 2023); no DeepSpeed, and `losses` is an ordinary
forward pass that DistributedDataParallel may wrap. Under autocast everything in it is autocast, as the published
recipes train.
"""

import copy
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.distributed.collectives import gather, rank
from trainer.methods.all4one import All4One, All4OneSettings


class Losses(NamedTuple):
    """What a forward pass yields; all scalars."""

    loss: Tensor
    neighbor: Tensor
    centroid: Tensor
    feature: Tensor
    neighbor_agreement: Tensor
    z_std: Tensor


class StraightAll4One(nn.Module):
    """All4One with copies of the weights and the queue of one of ours; state-dict names are the same."""

    queue_rows: Tensor  # [N, D]
    queue_labels: Tensor  # [N]
    queue_ids: Tensor  # [N]
    encoding: Tensor  # [k, D]

    def __init__(self, method: All4One) -> None:
        super().__init__()
        self.settings: All4OneSettings = method.settings
        self.backbone = copy.deepcopy(method.backbone)
        self.projector = copy.deepcopy(method.projector)
        self.neighbor_predictor = copy.deepcopy(method.neighbor_predictor)
        self.centroid_predictor = copy.deepcopy(method.centroid_predictor)
        self.classifier = copy.deepcopy(method.classifier)
        s = self.settings
        layer = nn.TransformerEncoderLayer(
            s.embedding_dim, s.transformer_heads, 2 * s.embedding_dim, s.transformer_dropout, batch_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, s.transformer_depth, enable_nested_tensor=False)
        self.transformer.load_state_dict(method.transformer.state_dict())
        self.momentum = copy.deepcopy(method.momentum)
        self.register_buffer("encoding", method.transformer.encoding.clone(), persistent=False)
        for name in ("rows", "labels", "ids"):
            self.register_buffer(f"queue_{name}", getattr(method.queue, name).clone(), persistent=False)
        self.queue_place = 0
        self.to(next(method.parameters()).dtype)

    def forward(self, views: list[Tensor], labels: Tensor, ids: Tensor) -> Losses:
        """Two views [B, 3, S, S], labels [B] and ids [B]; the queue takes this step's keys afterwards."""
        s = self.settings
        x1, x2 = views
        h1, h2 = self.backbone(x1), self.backbone(x2)  # [B, F]
        z1, z2 = self.projector(h1), self.projector(h2)  # [B, D]
        p1, p2 = self.neighbor_predictor(z1), self.neighbor_predictor(z2)
        s1, s2 = self.centroid_predictor(z1), self.centroid_predictor(z2)
        with torch.no_grad():
            m1, m2 = self._key(x1), self._key(x2)
            place1, nn1 = self._nearest(m1)
            _, nn2 = self._nearest(m2)

        neighbor = info_nce(nn1[:, 0], p2, s.temperature) / 2 + info_nce(nn2[:, 0], p1, s.temperature) / 2
        c1, c2 = self._centroid(nn1), self._centroid(nn2)
        d1, d2 = self._centroid(shifted(s1, nn1)), self._centroid(shifted(s2, nn2))
        t = s.centroid_temperature
        centroid = info_nce(c1, d2, t) / 2 + info_nce(c2, d1, t) / 2
        feature = feature_contrast(m1, m2, z1, z2)
        loss = s.neighbor_weight * neighbor + s.centroid_weight * centroid + s.feature_weight * feature
        if self.classifier is not None:
            loss = loss + F.cross_entropy(self.classifier(h1.detach()), labels)

        agreement = (self.queue_labels[place1[:, 0]] == labels).float().mean()
        z_std = F.normalize(torch.stack([z1, z2]), dim=-1).std(dim=1).mean().detach()
        self._push(m1, labels, ids)
        return Losses(loss, neighbor, centroid, feature, agreement, z_std)

    def _key(self, view: Tensor) -> Tensor:
        momentum = self.momentum["projector"](self.momentum["backbone"](view))
        return F.normalize(momentum, dim=-1)

    def _nearest(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Places [B, k] and rows [B, k, D] of the queue that are nearest to keys [B, D], best first."""
        places = (keys @ self.queue_rows.T).topk(self.settings.num_neighbors, dim=1).indices
        return places, self.queue_rows[places]

    def _centroid(self, sequences: Tensor) -> Tensor:
        """[B, k, D] -> [B, D]: the whole encoder's first token."""
        out: Tensor = self.transformer(sequences + self.encoding)[:, 0]
        return out

    @torch.no_grad()
    def _push(self, keys: Tensor, labels: Tensor, ids: Tensor) -> None:
        keys, labels, ids = gather(keys), gather(labels), gather(ids)
        rows, size = len(self.queue_rows), len(keys)
        if rows % size:
            raise ValueError(
                f"the published queue needs a length ({rows}) that divides by the batch ({size})"
            )
        end = self.queue_place + size
        self.queue_rows[self.queue_place : end] = keys
        self.queue_labels[self.queue_place : end] = labels
        self.queue_ids[self.queue_place : end] = ids
        self.queue_place = end % rows

    @torch.no_grad()
    def update_momentum(self, tau: float) -> None:
        """Move the averaged copy."""
        for part in ("backbone", "projector"):
            averaged, online = self.momentum[part], getattr(self, part)
            for m, w in zip(averaged.parameters(), online.parameters(), strict=True):
                m.data = tau * m.data + (1 - tau) * w.data


def info_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """InfoNCE of rows [B, D] against the rows of all ranks' keys [B, D]."""
    queries, keys = F.normalize(queries, dim=-1), gather(F.normalize(keys, dim=-1))
    logits = queries @ keys.T / temperature
    own = torch.arange(len(queries)) + rank() * len(queries)
    return F.cross_entropy(logits, own)


def shifted(prediction: Tensor, neighbors: Tensor) -> Tensor:
    """The prediction [B, D] followed by all neighbors [B, k, D] but the last."""
    return torch.cat([prediction[:, None], neighbors[:, :-1]], dim=1)


def feature_contrast(m1: Tensor, m2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """Contrast of the columns of keys and of the other view's embeddings, [B, D] each."""
    c1 = F.normalize(m1, dim=0).T @ F.normalize(z2, dim=0)  # [D, D]
    c2 = F.normalize(m2, dim=0).T @ F.normalize(z1, dim=0)
    off = ~torch.eye(len(c1), dtype=torch.bool)
    on_loss = ((c1.diagonal() - 1).square().mean() / 2 + (c2.diagonal() - 1).square().mean() / 2).sqrt()
    off_loss = (c1[off].square().mean() / 2 + c2[off].square().mean() / 2).sqrt()
    return 10 * (on_loss / 2 + off_loss / 2)


class StraightLARS(torch.optim.Optimizer):
    """LARS with `clip_lr`, one parameter at a time, over groups of `trainer.engine.optimizers.parameter_groups`."""

    def __init__(self, groups: Iterable[dict], momentum: float, eta: float) -> None:
        super().__init__(groups, {"lr": 1.0, "momentum": momentum, "eta": eta, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                gradient = weight.grad
                weight_norm, gradient_norm = weight.norm(), gradient.norm()
                if not group["exclude"] and weight_norm != 0 and gradient_norm != 0:
                    decay = group["weight_decay"]
                    ratio = group["eta"] * weight_norm / (gradient_norm + weight_norm * decay + 1e-8)
                    ratio = (ratio / group["lr"]).clamp(max=1)
                    gradient = (gradient + decay * weight) * ratio
                if "momentum_buffer" not in self.state[weight]:
                    self.state[weight]["momentum_buffer"] = gradient.clone()
                else:
                    self.state[weight]["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
                weight.add_(self.state[weight]["momentum_buffer"], alpha=-group["lr"])
