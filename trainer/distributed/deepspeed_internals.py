"""All uses of DeepSpeed's private interface. Another version of DeepSpeed may change it.

This file was checked against the source of the version `READ_AGAINST`. A test compares that with the installed version.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

READ_AGAINST = "0.19"
"""Major and minor version of DeepSpeed whose source this file was checked against."""


def skip_shared_memory_collective() -> None:
    """Keep `init_distributed` from compiling a collective for CPUs, which takes half a minute and is not used.

    DeepSpeed looks for it in a list of everything that it can compile here. If there is no list, each rank makes one
    with compilers. Nothing else looks into the list, so it may be this short.
    """
    import deepspeed.ops

    vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False


@contextmanager
def without_compiler() -> Iterator[None]:
    """Return a context in which DeepSpeed makes an engine as if this torch could not compile.

    Otherwise it loads torch's whole compiler for two things that nothing here uses: seconds of CPU time and over 50 MB
    of memory in each rank. At stages 1 and 2 it imports its Muon optimizer, only to see that the optimizer is another
    one. On CUDA it registers the passes of DeepCompile.
    """
    compiler: Any = importlib.import_module("deepspeed.runtime.compiler")
    engine: Any = importlib.import_module("deepspeed.runtime.engine")
    decorator, is_supported = compiler.compile, engine.is_deepcompile_supported
    compiler.compile = lambda: compiler.dummy_decorator
    engine.is_deepcompile_supported = lambda: False
    try:
        yield
    finally:
        compiler.compile, engine.is_deepcompile_supported = decorator, is_supported


def allow_float64() -> None:
    """Allow reduction of float64 gradients. DeepSpeed's list of types lacks float64, but every backend supports it."""
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    types = [*accelerator.supported_dtypes(), torch.float64]
    accelerator.supported_dtypes = lambda: types


def leave_gradients_alone(engine: Any) -> None:
    """Keep an engine of stage 0 from averaging gradients. It would begin only after the backward pass."""
    engine.enable_backward_allreduce = False


def parameter_groups(zero: Any) -> list[list[nn.Parameter]]:
    """Return the parameters of each group, in the order in which stages 1 and 2 concatenate them."""
    groups: list[list[nn.Parameter]] = zero.bit16_groups
    return groups


def flat_shards(zero: Any) -> list[Tensor]:
    """Return this rank's shard of each group's weights, flat and in fp32. The wrapped optimizer updates these
    shards."""
    shards: list[Tensor] = zero.single_partition_of_fp32_groups
    return shards


def shard_gradients(zero: Any) -> Mapping[int, Sequence[Tensor]]:
    """Return the averaged gradients of this rank's shard by number of the group, padding included."""
    gradients: Mapping[int, Sequence[Tensor]] = zero.averaged_gradients
    return gradients


def shard_offsets(parameter: nn.Parameter) -> tuple[int, int] | None:
    """Return where this rank's part of a parameter begins in the shard and in the parameter. None: it has no part."""
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    return None if mapping is None else (mapping.hp_fragment_address.start, mapping.lp_fragment_address.start)


def forget_linked_states(zero: Any) -> None:
    """Make DeepSpeed link the parameters to the optimizer's state again, after its tensors were replaced."""
    zero._hp_optimizer_states_linked = False
