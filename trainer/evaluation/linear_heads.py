"""Parallel linear classifiers, one for each learning rate, all trained on the same features in one pass."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.distributed.collectives import all_reduce_sum
from trainer.evaluation.crops import MOMENTUM
from trainer.evaluation.measures.accuracy import count_right, shares_right

_CHUNK = 1024  # samples whose logits exist at once


class LinearHeads:
    """L linear classifiers of C classes on F features, trained by SGD with momentum and without weight decay.

    All weights start at zero.

    Args:
        rates: learning rates `[L]`.
        num_classes: C.
        width: F.
        device: device of the features.
        dtype: dtype of the weights.
    """

    def __init__(
        self,
        rates: Sequence[float],
        num_classes: int,
        width: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._rates = torch.tensor(rates, device=device, dtype=dtype)  # [L]
        bias = torch.zeros(len(rates), num_classes, device=device, dtype=dtype)
        weight = torch.zeros(len(rates), num_classes, width, device=device, dtype=dtype)
        self.tensors = {
            "weight": weight,
            "bias": bias,
            "weight_momentum": torch.zeros_like(weight),
            "bias_momentum": torch.zeros_like(bias),
        }
        """All tensors that a step changes, by name."""

    @torch.no_grad()
    def step(self, features: Tensor, labels: Tensor, *, factor: float, batch: int) -> Tensor:
        """Run one step of every head on the mean cross-entropy of a global batch. Every rank calls with its rows.

        The gradient is computed in closed form, so only features, probabilities and one product are needed.

        Args:
            features: `[b, F]` of this rank.
            labels: `[b]`, none of them -1.
            factor: factor of every learning rate at this step.
            batch: rows of all ranks together.

        Returns:
            This rank's part `[L]` of the loss of each head, before the step.
        """
        heads, classes, width = self.tensors["weight"].shape
        log_p = self.logits(features).log_softmax(2)  # [b, L, C]
        wanted = labels[:, None, None].expand(-1, heads, 1)  # [b, L, 1]
        loss = -log_p.gather(2, wanted).sum((0, 2)) / batch
        error = log_p.exp_().scatter_add_(2, wanted, log_p.new_full(wanted.shape, -1)) / batch  # [b, L, C]
        gradient = error.flatten(1).T @ features  # [L * C, F]
        # one message; a rank has few rows compared to the weights
        summed = all_reduce_sum(torch.cat([gradient, error.sum(0).reshape(-1, 1)], dim=1))  # [L * C, F + 1]
        gradients = {
            "weight": summed[:, :-1].view(heads, classes, width),
            "bias": summed[:, -1].view(heads, classes),
        }
        for name, gradient in gradients.items():
            momentum, rates = (
                self.tensors[f"{name}_momentum"],
                self._rates.view(-1, *[1] * (gradient.ndim - 1)),
            )
            momentum.mul_(MOMENTUM).add_(gradient)
            self.tensors[name].sub_(factor * rates * momentum)
        return loss

    def logits(self, features: Tensor) -> Tensor:
        """Compute logits `[b, L, C]` of features `[b, F]`, with one product for all heads."""
        weight, bias = self.tensors["weight"], self.tensors["bias"]
        wide = F.linear(features, weight.flatten(0, 1), bias.flatten())  # [b, L * C]
        return wide.view(len(features), *bias.shape)

    @torch.no_grad()
    def accuracy(self, features: Tensor, labels: Tensor) -> list[tuple[float, float]]:
        """Return top-1 and top-5 of each head over all ranks. Every rank calls with its part `[n, F]`, `[n]`.

        A head that has diverged, with logits that are not finite, is never correct. Samples with label -1 are skipped.
        """
        known = labels >= 0
        features, labels = features[known], labels[known]
        right = torch.zeros(len(self._rates), 2, dtype=torch.int64, device=features.device)
        for rows, wanted in zip(features.split(_CHUNK), labels.split(_CHUNK), strict=True):
            right += count_right(self.logits(rows), wanted)
        return shares_right(right, len(labels))
