"""Layers of prototypes: learned vectors that rows are compared with by their cosine."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@torch.no_grad()
def normalize_rows(weight: Tensor, skip: Tensor | None = None) -> None:
    """Normalize the rows of a weight [K, D] in place. Nothing changes if `skip` ([], on the device) is 1.0."""
    unit = F.normalize(weight, dim=1)
    weight.copy_(unit if skip is None else torch.where(skip > 0, weight, unit))


class Prototypes(nn.Linear):
    """K prototypes: cosines of rows [B, D] with them, [B, K]. The rows of `weight` [K, D] must have norm 1.

    The gradient of the weight is that of a plain linear layer, and the weight must be normalized after each update, see
    `Method.unit_rows` (SwAV, Caron et al., NeurIPS 2020, algorithm 1).

    Args:
        size: D.
        count: K.
    """

    def __init__(self, size: int, count: int) -> None:
        super().__init__(size, count, bias=False)
        normalize_rows(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Normalize rows [B, D] and return their cosines, [B, K]."""
        return _products(input, self.weight)


class WeightNormPrototypes(nn.Linear):
    """K prototypes under weight normalization (Salimans and Kingma, NeurIPS 2016), as in DINO's last layer.

    Row k of the layer is `scale[k] * weight[k] / |weight[k]|`. Rows of `weight` [K, D] may have any norm.

    Args:
        size: D.
        count: K.
        learn_scale: whether `scale` [K, 1] is learned. If not, it is 1.
    """

    def __init__(self, size: int, count: int, *, learn_scale: bool = False) -> None:
        super().__init__(size, count, bias=False)
        self.scale = nn.Parameter(torch.ones(count, 1)) if learn_scale else None

    def forward(self, input: Tensor) -> Tensor:
        """Normalize rows [B, D] and return their products with the layer's rows, [B, K]."""
        rows = F.normalize(self.weight, dim=1)  # [K, D]
        return _products(input, rows if self.scale is None else self.scale * rows)


def _products(input: Tensor, weight: Tensor) -> Tensor:
    """Return products of normalized rows with the weight's rows, [B, K], in the precision of the weight.

    That holds under autocast too, because low temperatures magnify errors.
    """
    with torch.autocast(input.device.type, enabled=False):
        return F.linear(F.normalize(input.to(weight.dtype), dim=1), weight)
