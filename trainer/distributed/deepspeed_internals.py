"""Everything of DeepSpeed that is not its public interface, in one place: another version may change it.

Read against the source of the versions in `READ_AGAINST`. A test compares that with the version that is installed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

READ_AGAINST = "0.19"
"""Major and minor version of DeepSpeed that this file was read against."""


def skip_shared_memory_collective() -> None:
    """Keep `init_distributed` from compiling a collective for CPUs, which takes half a minute and serves nothing."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def allow_float64() -> None:
    """Let gradients of float64 be reduced. DeepSpeed checks a list of types that lacks it, and every backend can."""
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    types = [*accelerator.supported_dtypes(), torch.float64]
    accelerator.supported_dtypes = lambda: types


def leave_gradients_alone(engine: Any) -> None:
    """Keep an engine of stage 0 from averaging gradients, which it would begin after the backward pass only."""
    engine.enable_backward_allreduce = False


def parameter_groups(zero: Any) -> list[list[nn.Parameter]]:
    """The parameters of each group, in the order in which stages 1 and 2 lay them end to end."""
    groups: list[list[nn.Parameter]] = zero.bit16_groups
    return groups


def flat_shards(zero: Any) -> list[Tensor]:
    """This rank's shard of each group's weights, flat and in fp32: what the optimizer inside updates."""
    shards: list[Tensor] = zero.single_partition_of_fp32_groups
    return shards


def shard_gradients(zero: Any) -> Mapping[int, Sequence[Tensor]]:
    """Averaged gradients of this rank's shard, padding included, by number of the group."""
    gradients: Mapping[int, Sequence[Tensor]] = zero.averaged_gradients
    return gradients


def shard_offsets(parameter: nn.Parameter) -> tuple[int, int] | None:
    """Where this rank's part of a parameter begins in the shard and in the parameter; None if it has no part."""
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    return None if mapping is None else (mapping.hp_fragment_address.start, mapping.lp_fragment_address.start)


def forget_linked_states(zero: Any) -> None:
    """Have DeepSpeed link parameters anew to the optimizer's state, whose tensors have been replaced."""
    zero._hp_optimizer_states_linked = False
