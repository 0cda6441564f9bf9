"""What is used of DeepSpeed's inside is there, in the version that this was read against."""

import sys
from importlib.metadata import version
from unittest.mock import patch

import deepspeed.ops
import deepspeed.runtime.engine
import pytest
import torch
from deepspeed_ranks import engine_of, tiny

from trainer.distributed import deepspeed_internals as internals


def test_the_installed_version_is_the_one_that_was_read() -> None:
    found = version("deepspeed").rpartition(".")[0]
    assert found == internals.READ_AGAINST, "read deepspeed_internals.py against the new version's source"


def shards_of_one_rank() -> list[tuple[int, int, bool]]:
    """Parameters and numbers of each group, and whether each parameter's part begins where the shard says."""
    with engine_of(tiny("parallel.zero_stage=1")) as engine:
        zero = engine._deepspeed.optimizer
        groups, flat = internals.parameter_groups(zero), internals.flat_shards(zero)
        found = []
        for group, shard in zip(groups, flat, strict=True):
            offsets = [internals.shard_offsets(parameter) for parameter in group]
            ends = torch.tensor([0, *(p.numel() for p in group)]).cumsum(0).tolist()
            found.append((len(group), shard.numel() - ends[-1], offsets == [(end, 0) for end in ends[:-1]]))
        internals.forget_linked_states(zero)
        assert internals.shard_gradients(zero).keys() <= set(range(len(groups)))
        return found


def compilable_parts_listed() -> set[str]:
    """What DeepSpeed has listed of the parts that it could compile, after it has made an engine."""
    vars(deepspeed.ops).pop("__compatible_ops__", None)  # which an earlier test of this process has made
    with engine_of(tiny("parallel.zero_stage=0")):
        return set(deepspeed.ops.__compatible_ops__)


@pytest.mark.slow
def test_no_rank_runs_compilers_to_list_what_could_be_compiled(run_ranks) -> None:
    assert run_ranks(compilable_parts_listed, 1) == [{"deepspeed_shm_comm"}]


def has_loaded_compiler(stage: int) -> bool:
    """Whether this rank has loaded torch's compiler after DeepSpeed has made an engine as for a GPU."""
    as_for_a_gpu = patch("deepspeed.runtime.engine.is_deepcompile_supported", lambda: True)
    with as_for_a_gpu, engine_of(tiny(f"parallel.zero_stage={stage}")):
        assert deepspeed.runtime.engine.is_deepcompile_supported()  # what was changed is as before
        return "torch._inductor.lowering" in sys.modules


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1])
def test_no_rank_loads_the_compiler_for_what_it_does_not_use(run_ranks, stage: int) -> None:
    assert run_ranks(has_loaded_compiler, 1, stage) == [False]


@pytest.mark.slow
def test_one_rank_has_all_parameters_end_to_end(run_ranks) -> None:
    ((*groups,),) = run_ranks(shards_of_one_rank, 1)
    assert sum(count for count, _, _ in groups) > 20
    for _, padding, in_order in groups:
        assert padding >= 0
        assert in_order
