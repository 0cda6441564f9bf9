"""Shards that are joined make the state that the ranks would have gathered."""

import pytest
import torch.distributed as dist
from deepspeed_ranks import engine_of, tiny, train
from rank_processes import run_as_ranks
from torch import Tensor

from trainer.checkpoints.packed_tensors import PackedTensors

CASES: dict[str, tuple[str, ...]] = {
    "lars": ("optim.name=lars", "optim.lr=0.5"),
    "adamw": ("optim.name=adamw", "optim.lr=0.01", "train.grad_accum_steps=2"),
    "sgd": ("optim.name=sgd", "optim.lr=0.1"),
}
RANKS = 3
Pair = tuple[dict[str, Tensor], dict[str, Tensor]]


def joined_and_gathered() -> dict[str, Pair]:
    found: dict[str, Pair] = {}
    for zero in (1, 2):
        for name, overrides in CASES.items():
            config = tiny(*overrides, f"parallel.zero_stage={zero}")
            with engine_of(config) as engine:
                for steps in (0, 2):
                    train(engine, config, range(steps))
                    own = PackedTensors(engine.own_shard())
                    own.fill(engine.own_shard())
                    shards = [PackedTensors(engine.own_shard()) for _ in range(RANKS)]
                    if own.content.numel():
                        dist.all_gather([shard.content for shard in shards], own.content)
                    joined = engine.join_shards([shard.tensors for shard in shards])
                    _, gathered = engine.state()
                    found[f"{name}, stage {zero}, {steps} steps"] = (
                        {key: value.clone() for key, value in joined.items()},
                        {key: value.clone() for key, value in gathered.items()},
                    )
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    found: list[dict[str, Pair]] = run_as_ranks(
        joined_and_gathered, RANKS, tmp_path_factory.mktemp("ranks"), ()
    )
    return found[0]


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("zero", [1, 2])
@pytest.mark.parametrize("optimizer", CASES)
def test_joined_shards_are_the_gathered_state(
    results: dict[str, Pair], optimizer: str, zero: int, steps: int
) -> None:
    joined, gathered = results[f"{optimizer}, stage {zero}, {steps} steps"]
    assert joined.keys() == gathered.keys() != set()
    for name, tensor in gathered.items():
        assert tensor.equal(joined[name]), name
        assert tensor.dtype is joined[name].dtype, name
    assert any(tensor.numel() > 1 for tensor in gathered.values()) is (steps > 0)
