"""The kernels of batch norm as operations of torch, which torch.compile and FakeTensors know."""

from typing import Any

import torch
from torch import Tensor

from trainer.distributed.triton_kernels import define_operations

_OPERATIONS = {
    "view_statistics": "(Tensor x, int views) -> Tensor",
    "combine_statistics": "(Tensor found, Tensor(a!) running_mean, Tensor(b!) running_var, float momentum, float eps, "
    "int rows) -> Tensor",
    "normalize": "(Tensor x, Tensor weight, Tensor bias, Tensor statistics, Tensor? residual, bool relu) -> Tensor",
    "gradient_sums": "(Tensor dy, Tensor x, Tensor weight, Tensor bias, Tensor statistics, bool relu) -> Tensor",
    "residual_gradient_sums": "(Tensor dy, Tensor? dy2, Tensor x, Tensor y, Tensor statistics) -> "
    "(Tensor, Tensor)",
    "input_gradient": "(Tensor dy, Tensor x, Tensor weight, Tensor bias, Tensor statistics, Tensor sums, int count, "
    "bool relu) -> Tensor",
}
"""The operations of `trainer.distributed.batch_norm_operations`, by name."""

_OF_TWO = {
    "normalize_two": "(Tensor x, Tensor weight, Tensor bias, Tensor statistics, Tensor x2, Tensor weight2, "
    "Tensor bias2, Tensor statistics2) -> Tensor",
    "gradient_sums_of_two": "(Tensor dy, Tensor? dy2, Tensor x, Tensor x2, Tensor y, Tensor statistics, "
    "Tensor statistics2) -> (Tensor, Tensor)",
    "input_gradients_of_two": "(Tensor dy, Tensor x, Tensor weight, Tensor statistics, Tensor x2, Tensor weight2, "
    "Tensor statistics2, Tensor sums, int count) -> (Tensor, Tensor)",
}
"""The operations of `trainer.distributed.two_norms_operations`, by name."""


def sum_type(x: Tensor) -> torch.dtype:
    """Return the type of sums over x."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _sums(x: Tensor, views: int) -> Tensor:
    return x.new_empty((views, 2, x.shape[1]), dtype=sum_type(x))


_SHAPES: dict[str, Any] = {
    "view_statistics": _sums,
    "combine_statistics": lambda found, *_: torch.empty_like(found[0]),
    "normalize": lambda x, *_: torch.empty_like(x),
    "gradient_sums": lambda dy, x, weight, bias, statistics, relu: torch.empty_like(statistics),
    "residual_gradient_sums": lambda dy, dy2, x, y, statistics: (
        torch.empty_like(x),
        torch.empty_like(statistics),
    ),
    "input_gradient": lambda dy, x, *_: torch.empty_like(x),
    "normalize_two": lambda x, *_: torch.empty_like(x),
    "gradient_sums_of_two": lambda dy, dy2, x, x2, y, statistics, statistics2: (
        torch.empty_like(x),
        statistics.new_empty((2, *statistics.shape)),
    ),
    "input_gradients_of_two": lambda dy, x, weight, statistics, x2, *_: (
        torch.empty_like(x),
        torch.empty_like(x2),
    ),
}
"""Results without values, for FakeTensors."""

define_operations(_OPERATIONS, _SHAPES, "trainer.distributed.batch_norm_operations")
define_operations(_OF_TWO, _SHAPES, "trainer.distributed.two_norms_operations")

operations = torch.ops.all4one
"""All operations, by name."""
