"""Layer norms of CUDA devices that read and write the type of autocast and compute in float32.

Autocast runs torch's layer norm in float32. It then casts activations up before each layer norm, writes twice the
bytes, and casts the result down for the product behind it. Torch's own kernel cannot do without: it needs one type for
activations and weights, so it would round the weights.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn

from data_pipelines.log import LOGGER
from trainer.distributed.triton_kernels import can_compile, define_operations

_OPERATIONS = {
    "layer_norm": "(Tensor x, Tensor weight, Tensor bias, float eps, ScalarType dtype) -> (Tensor, Tensor)",
    "layer_norm_gradients": "(Tensor dy, Tensor x, Tensor weight, Tensor statistics) -> (Tensor, Tensor)",
}
"""The kernels as operations of torch, by name. `trainer.networks.layer_norm_kernels` has their documentation."""

_SHAPES: dict[str, Any] = {
    "layer_norm": lambda x, weight, bias, eps, dtype: (
        torch.empty_like(x, dtype=dtype),
        x.new_empty((2, x.numel() // x.shape[-1]), dtype=torch.float32),
    ),
    "layer_norm_gradients": lambda dy, x, weight, statistics: (
        torch.empty_like(x),
        statistics.new_empty((2, x.shape[-1])),
    ),
}
"""Results without values, for FakeTensors."""

define_operations(_OPERATIONS, _SHAPES, "trainer.networks.layer_norm_kernels")


class AutocastLayerNorm(nn.LayerNorm):
    """Torch's layer norm. Under autocast on a CUDA device it reads rows [..., D] of any type and writes that of
    autocast."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize [..., D]. Returns the same shape."""
        device = input.device.type
        if not (_on_cuda(input) and torch.is_autocast_enabled(device)):
            return super().forward(input)
        dtype = torch.get_autocast_dtype(device)
        out: Tensor = _LayerNorm.apply(input, self.weight, self.bias, self.eps, dtype)
        return out


class AutocastLayerNorm2d(AutocastLayerNorm):
    """The same for the channels of images, as timm's `LayerNorm2d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize the channels of [B, C, H, W]. Returns the same shape in channels-last memory."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def keep_autocast_dtype(network: nn.Module) -> None:
    """Let the layer norms of torch and timm in a network write activations in the type of autocast.

    Only layer norms of one dimension with weight and bias change. Without a compiler, which Triton needs, all stay
    torch's own. Names in `state_dict` stay the same.

    Args:
        network: changed in place. It will be on a CUDA device.
    """
    kinds = _kinds()
    norms: list[Any] = [m for m in network.modules() if type(m) in kinds and _has_kernel(m)]
    if norms and not can_compile():
        LOGGER.warning("layer norms are slower without a C compiler: install gcc, or name one with CC")
        return
    for norm in norms:
        norm.__class__ = kinds[type(norm)]


def _kinds() -> dict[type[nn.Module], type[AutocastLayerNorm]]:
    """Return what replaces layer norms, by their class."""
    kinds: dict[type[nn.Module], type[AutocastLayerNorm]] = {nn.LayerNorm: AutocastLayerNorm}
    # Importing timm takes a second. A network with its layers has imported it.
    if (layers := sys.modules.get("timm.layers")) is not None:
        kinds |= {layers.LayerNorm: AutocastLayerNorm, layers.LayerNorm2d: AutocastLayerNorm2d}
    return kinds


def _has_kernel(norm: Any) -> bool:
    return len(norm.normalized_shape) == 1 and norm.weight is not None and norm.bias is not None


def _on_cuda(x: Tensor) -> bool:
    """Return whether the kernels of CUDA devices take a tensor."""
    return x.is_cuda


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x = x.contiguous()
        out: Tensor
        out, statistics = torch.ops.all4one.layer_norm(x, weight, bias, eps, dtype)
        ctx.save_for_backward(x, weight, statistics)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, statistics = ctx.saved_tensors
        dx, sums = torch.ops.all4one.layer_norm_gradients(grad.contiguous(), x, weight, statistics)
        of_weight, of_bias = sums.to(weight.dtype)
        return dx, of_weight, of_bias, None, None
