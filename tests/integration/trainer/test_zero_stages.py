"""ZeRO stages in several processes: the same training, state that any of them takes over, gradients sent as bf16."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from deepspeed_ranks import batches, engine_of, everything, tiny, train
from rank_processes import run_as_ranks
from torch import Tensor

Tensors = dict[str, Tensor]
STEPS = range(3)  # differences of rounding grow tenfold a step here
CASES: dict[str, tuple[str, ...]] = {
    "lars": ("optim.name=lars", "optim.lr=0.5"),
    "adamw": ("optim.name=adamw", "optim.lr=0.01", "train.grad_accum_steps=2", "optim.max_grad_norm=0.5"),
    "sgd": ("optim.name=sgd", "optim.lr=0.1", "train.precision=bf16"),
}


class Trained(NamedTuple):
    norms: list[float]
    tensors: Tensors


class Results(NamedTuple):
    """What two processes found, by rank 0."""

    trained: dict[str, list[Trained]]
    """By optimizer and stage."""
    taken_over: list[tuple[Tensors, Tensors]]
    """A checkpoint of stage 1 after stages 0 and 2 loaded it, and a step further."""
    with_accumulation: dict[int, Tensors]
    """The same checkpoint after engines of other accumulation loaded it."""
    unlabeled: list[Tensors]
    """After training that is clipped, without labels, by stage."""
    sent: dict[str, list[Counter[torch.dtype]]]
    """Numbers in large messages that a step sums, by what it was asked for and stage."""


def trained(*overrides: str) -> Trained:
    config = tiny(*overrides)
    with engine_of(config) as engine:
        return Trained(train(engine, config, STEPS), everything(engine))


def without_labels(*overrides: str) -> Tensors:
    config = tiny(*overrides)
    with engine_of(config) as engine:
        for step in STEPS:
            unlabeled = [b._replace(labels=torch.full_like(b.labels, -1)) for b in batches(config, step)]
            engine.step(step, unlabeled)
        return everything(engine)


def taken_over(saved: Tensors, zero: int, *overrides: str) -> tuple[Tensors, Tensors]:
    config = tiny(*CASES["adamw"], f"parallel.zero_stage={zero}", *overrides)
    with engine_of(config) as engine:
        train(engine, config, range(1))  # there is other state to replace
        optimizer = {k.removeprefix("optimizer/"): t for k, t in saved.items() if "/" in k}
        engine.load_state({k: t for k, t in saved.items() if "/" not in k}, optimizer)
        loaded = everything(engine)
        train(engine, config, range(3, 4))
        return loaded, everything(engine)


def sent(gradient_dtype: str, zero: int) -> Counter[torch.dtype]:
    config = tiny(f"parallel.zero_stage={zero}", f"parallel.gradient_dtype={gradient_dtype}")
    numbers, real = Counter[torch.dtype](), dist.all_reduce

    def recorded(tensor: Tensor, *arguments: Any, **named: Any) -> Any:
        if tensor.numel() > 5000:  # no loss or batch norm has as many
            numbers[tensor.dtype] += tensor.numel()
        return real(tensor, *arguments, **named)

    with engine_of(config) as engine:
        dist.all_reduce = recorded
        train(engine, config, range(1))
        dist.all_reduce = real
    return numbers


def on_two_ranks() -> Results:
    by_stage = {
        name: [trained(*overrides, f"parallel.zero_stage={zero}") for zero in (0, 1, 2)]
        for name, overrides in CASES.items()
    }
    saved: list[Any] = [by_stage["adamw"][1].tensors]
    dist.broadcast_object_list(saved)
    return Results(
        by_stage,
        [taken_over(saved[0], zero) for zero in (0, 2)],
        {parts: taken_over(saved[0], 1, f"train.grad_accum_steps={parts}")[0] for parts in (1, 3)},
        [without_labels(*CASES["adamw"], f"parallel.zero_stage={zero}") for zero in (0, 1, 2)],
        {dtype: [sent(dtype, zero) for zero in (0, 1, 2)] for dtype in ("fp32", "bf16")},
    )


def on_three_ranks(file: Path) -> tuple[Tensors, Tensors]:
    return taken_over(torch.load(file), 1)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_as_ranks(on_two_ranks, 2, tmp_path_factory.mktemp("ranks"), ())[0]


def differences(tensors: Tensors, expected: Tensors) -> dict[str, float]:
    """Norm of the difference over the norm, by kind of tensor; tensors of integers must be equal."""
    assert tensors.keys() == expected.keys()
    squares: dict[str, Tensor] = {}
    for name, tensor in expected.items():
        if not tensor.is_floating_point():
            assert torch.equal(tensor, tensors[name]), name
            continue
        kind = name.split("/")[1] if "/" in name else "weights"
        kind = f"copies and {name.split('.')[0]}" if name.startswith(("queue.", "momentum.")) else kind
        pair = torch.stack([(tensors[name] - tensor).double().square().sum(), tensor.double().square().sum()])
        squares[kind] = squares.get(kind, torch.zeros(2)) + pair
    return {kind: float((error / norm).sqrt()) for kind, (error, norm) in squares.items()}


@pytest.mark.parametrize("optimizer", CASES)
def test_all_stages_train_the_same(results: Results, optimizer: str) -> None:
    norms, tensors = results.trained[optimizer][0]
    for stage in results.trained[optimizer][1:]:
        found = differences(stage.tensors, tensors)
        # a step's gradient differs by more than the weights that it is of do; velocities are made of the last ones
        assert found.pop("momentum", 0) < 2e-3
        assert max(found.values()) < 5e-5
        assert stage.norms == pytest.approx(norms, rel=1e-4)


def test_labels_change_nothing_but_the_classifier_also_where_gradients_are_clipped(results: Results) -> None:
    for labeled, unlabeled in zip(results.trained["adamw"], results.unlabeled, strict=True):
        different = {n for n, tensor in labeled.tensors.items() if not torch.equal(tensor, unlabeled[n])}
        assert "classifier.weight" in different
        assert {name.rpartition("/")[2] for name in different} <= {
            "classifier.weight",
            "classifier.bias",
            "queue.labels",
        }


def test_a_checkpoint_goes_to_any_stage_accumulation_and_number_of_processes(
    results: Results, run_ranks, tmp_path
) -> None:
    saved = results.trained["adamw"][1].tensors
    torch.save(saved, tmp_path / "saved")
    all_loads = [*results.taken_over, run_ranks(on_three_ranks, 3, tmp_path / "saved")[0]]
    for loaded in [*(loaded for loaded, _ in all_loads), *results.with_accumulation.values()]:
        assert loaded.keys() == saved.keys()
        assert not [name for name in saved if not torch.equal(loaded[name], saved[name])]
    for _, further in all_loads:
        assert max(differences(further, all_loads[0][1]).values()) < 5e-5


def test_gradients_are_sent_in_the_type_that_is_asked_for(results: Results) -> None:
    assert all(set(by_type) == {torch.float32} for by_type in results.sent["fp32"])
    assert all(set(by_type) == {torch.bfloat16} for by_type in results.sent["bf16"])
    numbers = {sum(by_type.values()) for stages in results.sent.values() for by_type in stages}
    assert len(numbers) == 1
