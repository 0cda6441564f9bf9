"""Named tensors side by side in one piece of host memory, so that one message or one file holds all of them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.checkpoints.host_copies import copy_to_host

_ALIGNMENT = 64
"""Each tensor begins at a multiple of this many bytes, which suits every type."""


class PackedTensors:
    """Host memory for tensors with the names, shapes and types of others. Its content is undefined at first.

    Two objects made for tensors that agree in this have the same layout.

    Args:
        like: tensors on any device.
    """

    def __init__(self, like: Mapping[str, Tensor]) -> None:
        begins, end = dict[str, int](), 0
        for name, tensor in like.items():
            begins[name] = end
            end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        self.content = torch.empty(end, dtype=torch.uint8)
        """All bytes: [bytes] uint8."""
        self.tensors: Mapping[str, Tensor] = {
            name: self.content[begin : begin + like[name].nbytes]
            .view(like[name].dtype)
            .view(like[name].shape)
            for name, begin in begins.items()
        }
        """Views of the content by name."""

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether tensors have the names, shapes and types of these."""
        return _kinds(tensors) == _kinds(self.tensors)

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the values of tensors that fit, from any device."""
        copy_to_host(tensors, self.tensors)


def _kinds(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
