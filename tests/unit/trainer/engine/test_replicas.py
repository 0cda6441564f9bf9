from collections.abc import Callable
from typing import Any

import torch
from deepspeed_ranks import tiny
from torch import Tensor

from trainer.distributed.collectives import rank
from trainer.engine.replicas import Comparison, Difference, StateKind, replicas_of
from trainer.methods import Method
from trainer.runs.components import build_method

CPU = torch.device("cpu")
FLIPPED = {
    StateKind.WEIGHTS: "backbone.conv1.weight",
    StateKind.OPTIMIZER: "momentum/projector",
    StateKind.EMA: "momentum.projector.0.weight",
    StateKind.BUFFERS: "momentum.backbone.bn1.running_var",
    StateKind.QUEUE: "queue.ids",
}


def flip(tensor: Tensor) -> None:
    """Change the lowest bit of a tensor's last element, and the same bit again at the next call."""
    memory = tensor.detach().view(-1)[-1:].view(torch.uint8)
    memory[0] ^= 1


def method_of(*overrides: str) -> Method:
    return build_method(tiny(*overrides), 10, CPU)


def found_in(replicas: Any, *kinds: StateKind) -> Difference | None:
    return Comparison(replicas, kinds or tuple(StateKind), CPU).difference()


def flips_of_every_kind() -> list[Difference | None]:
    replicas = replicas_of(method_of(), {"momentum/projector": torch.ones(3, 4)})
    found = [found_in(replicas)]
    for kind, name in FLIPPED.items():
        if rank() == 1:
            flip(replicas[kind][name])
        found += [found_in(replicas), found_in(replicas, StateKind.EMA)]
        if rank() == 1:
            flip(replicas[kind][name])
    return [*found, found_in(replicas)]


def test_a_flipped_bit_of_every_kind_of_state_names_the_rank_and_the_tensor(
    run_ranks: Callable[..., Any],
) -> None:
    for equal, *found, equal_again in run_ranks(flips_of_every_kind, 3):
        assert (equal, equal_again) == (None, None)
        for index, (kind, name) in enumerate(FLIPPED.items()):
            wanted = Difference(ranks=[1], has_majority=True, tensors={kind: [name]})
            assert found[2 * index] == wanted
            assert found[2 * index + 1] == (wanted if kind is StateKind.EMA else None), "only EMA is compared"


def flips_on_several_ranks() -> list[Difference | None]:
    replicas = replicas_of(method_of(), {})
    if rank() == 0:
        flip(replicas[StateKind.WEIGHTS][FLIPPED[StateKind.WEIGHTS]])
        flip(replicas[StateKind.WEIGHTS]["backbone.bn1.bias"])
    two_apart = found_in(replicas)
    if rank() == 2:
        flip(replicas[StateKind.QUEUE]["queue.rows"])
    both = found_in(replicas)
    return [two_apart, both]


def test_without_a_majority_all_ranks_are_named(run_ranks: Callable[..., Any]) -> None:
    weights = {StateKind.WEIGHTS: ["backbone.conv1.weight", "backbone.bn1.bias"]}
    for found in run_ranks(flips_on_several_ranks, 2):
        assert found == [Difference([0, 1], False, weights)] * 2
    queue = {StateKind.QUEUE: ["queue.rows"]}
    for first, both in run_ranks(flips_on_several_ranks, 3):
        assert first == Difference([0], True, weights)
        assert both == Difference([0, 2], True, weights | queue)


def names_of_buffers(*overrides: str) -> set[str]:
    return set(replicas_of(method_of(*overrides), {})[StateKind.BUFFERS])


def buffers_by_setting() -> list[set[str]]:
    return [
        names_of_buffers(),
        names_of_buffers("parallel.batch_norm=rank"),
        names_of_buffers("parallel.batch_norm_group=1"),
    ]


def test_statistics_are_compared_however_many_ranks_a_batch_norm_spans(run_ranks: Callable[..., Any]) -> None:
    for everywhere, by_rank, by_group in run_ranks(buffers_by_setting, 2):
        assert {"backbone.bn1.running_mean", "backbone.bn1.num_batches_tracked"} <= everywhere
        assert by_rank == by_group == everywhere
