"""FakeTensors on a device that does not exist, in a group of ranks that never answers."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._tools.fake_collectives
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from trainer.distributed.process_group import import_deepspeed


@contextmanager
def fake_device(world_size: int) -> Iterator[torch.device]:
    """Yield the device. Within the context every tensor is a FakeTensor, and this process is rank 0 of `world_size`.

    The process must have been started in the environment of `stub_environment`.
    """
    assert torch.cuda.is_available(), "the stand-in for the CUDA runtime is not loaded"
    import_deepspeed()
    import deepspeed

    if not dist.is_initialized():
        dist.init_process_group(
            "fake", store=FakeStore(), rank=int(os.environ["RANK"]), world_size=world_size
        )
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    assert dist.get_world_size() == world_size, "DeepSpeed keeps the groups of a process"
    with _modules_that_move(), FakeTensorMode(allow_non_fake_inputs=True):
        yield torch.device("cuda", 0)


@contextmanager
def _modules_that_move() -> Iterator[None]:
    """Make modules of FakeTensors move and copy as those of real tensors do: a parameter stays the same object."""
    apply, of_tensor, of_parameter = nn.Module._apply, Tensor.__deepcopy__, nn.Parameter.__deepcopy__
    changed: Any = {"apply": _apply, "tensor": _deep_copy(of_tensor), "parameter": _deep_copy(of_parameter)}
    nn.Module._apply = changed["apply"]  # type: ignore[method-assign]
    Tensor.__deepcopy__ = changed["tensor"]  # type: ignore[method-assign]
    nn.Parameter.__deepcopy__ = changed["parameter"]  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = apply  # type: ignore[method-assign]
        Tensor.__deepcopy__ = of_tensor  # type: ignore[method-assign]
        nn.Parameter.__deepcopy__ = of_parameter  # type: ignore[method-assign]


@torch.no_grad()
def _apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Change every tensor of a module, as `nn.Module._apply` does."""
    if recurse:
        for child in module.children():
            child._apply(change)
    for parameter in module._parameters.values():
        if parameter is None:
            continue
        changed: Any = change(parameter)
        if changed is not parameter:
            parameter.data = changed
            parameter.fake_device = changed.fake_device  # type: ignore[attr-defined]
        if parameter.grad is not None:
            parameter.grad = change(parameter.grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = change(buffer)
    return module


def _deep_copy(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `__deepcopy__` that also takes FakeTensors."""

    def copied(self: Tensor, memo: dict[int, Any]) -> Any:
        if not isinstance(self, FakeTensor):
            return plain(self, memo)
        if id(self) not in memo:
            with torch.no_grad():
                made: Tensor = self.detach().clone()
            memo[id(self)] = (
                nn.Parameter(made, self.requires_grad) if isinstance(self, nn.Parameter) else made
            )
        return memo[id(self)]

    return copied
