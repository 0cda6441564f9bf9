"""A backbone with a linear head, all of which is trained."""

import copy
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_pipelines.errors import UserError
from trainer.distributed.batch_norm import synchronize_batch_norm
from trainer.distributed.collectives import world_size
from trainer.distributed.gradient_buckets import GradientBuckets
from trainer.evaluation.crops import MOMENTUM


class Classifier:
    """A copy of a backbone with a linear head, trained by SGD with Nesterov momentum and without weight decay.

    The head starts at zero. Gradients are averaged over the ranks, and batch norms use the batch statistics of all
    ranks. Parameters that the library fixes, such as the positions of some transformers, stay fixed.

    Args:
        backbone: images `[B, 3, S, S]` -> features `[B, F]`. It is not changed.
        num_classes: C.
        width: F.
        rate: learning rate.

    Raises:
        UserError: a batch norm cannot use the batch statistics of several ranks.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, width: int, rate: float) -> None:
        like = next(backbone.parameters())
        head = nn.Linear(width, num_classes, device=like.device, dtype=like.dtype)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        parts = OrderedDict(backbone=copy.deepcopy(backbone), head=head)
        self.network = _across_ranks(nn.Sequential(parts), like.device)
        """Images `[b, 3, S, S]` -> logits `[b, C]`."""
        self._rate = rate
        learned = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.SGD(learned.values(), lr=rate, momentum=MOMENTUM, nesterov=True)
        momenta = {name: torch.zeros_like(p) for name, p in learned.items()}
        for name, parameter in learned.items():
            self._optimizer.state[parameter]["momentum_buffer"] = momenta[name]
        self.tensors = self.network.state_dict() | {f"momentum.{name}": m for name, m in momenta.items()}
        """All tensors that a step changes, by name."""
        self._buckets: GradientBuckets | None = None
        if world_size() > 1:
            self._buckets = GradientBuckets(list(learned.values()), like.dtype, due=lambda: True)

    def step(self, images: Tensor, labels: Tensor, factor: float) -> Tensor:
        """Run one step on the mean cross-entropy of a global batch. Every rank calls with the same number of rows.

        Args:
            images: `[b, 3, S, S]` of this rank.
            labels: `[b]`, none of them -1.
            factor: factor of the learning rate at this step.

        Returns:
            This rank's mean loss before the step.
        """
        self.network.train()
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * factor
        self._optimizer.zero_grad()
        loss = F.cross_entropy(self.network(images), labels)
        loss.backward()
        if self._buckets is not None:
            self._buckets.finish()
        self._optimizer.step()
        return loss.detach()


def _across_ranks(network: nn.Module, device: torch.device) -> nn.Module:
    try:
        return synchronize_batch_norm(network, device)
    except UserError as error:
        raise UserError(error.what, where="--finetune", fix="evaluate with one process") from None
