"""Loss and gradients of every method against its paper's formula, straight and in float64, on one process and on two.

All4One is held to files of numbers that other code made: tests/golden. Others may have a test of their own beside this.
"""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from rank_processes import run_as_ranks
from small_methods import SMALL
from straight_formulas import (
    Result,
    Tensors,
    assert_same,
    cross_entropy,
    fixed_norm,
    linear,
    norm,
    three,
    two,
    unit,
)
from torch import Tensor, nn

from trainer.distributed.batch_norm import synchronize_batch_norm
from trainer.distributed.collectives import all_reduce_sum, rank, world_size
from trainer.methods import Method, available
from trainer.networks.backbones import Backbone

ROWS = 8  # of the global batch


def features(p: Tensors, x: Tensor, copy: str = "") -> Tensor:
    return linear(p, f"{copy}backbone.1", x.reshape(len(x), -1)).tanh()


def simclr(p: Tensors, views: list[Tensor]) -> Tensor:
    z = torch.cat(
        [linear(p, "projector.2", linear(p, "projector.0", features(p, x)).clamp(min=0)) for x in views]
    )
    similarity, count = (unit(z) @ unit(z).T / 0.1).exp(), len(z)
    total = torch.zeros((), dtype=z.dtype)
    for i in range(count):
        others = sum(similarity[i, k] for k in range(count) if k != i)
        total = total - (similarity[i, (i + ROWS) % count] / others).log()
    return total / count


def byol(p: Tensors, views: list[Tensor]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for online, target in (views, views[::-1]):
        q = two(p, "predictor", two(p, "projector", features(p, online)))
        t = two(p, "momentum.projector", features(p, target, "momentum."))
        cosines = [a @ b / (a.norm() * b.norm()) for a, b in zip(q, t, strict=True)]
        total = total + torch.stack([2 - 2 * c for c in cosines]).mean()
    return total


def simsiam(p: Tensors, views: list[Tensor]) -> Tensor:
    z = [fixed_norm(three(p, "projector", features(p, x))) for x in views]
    total = torch.zeros((), dtype=torch.float64)
    for online, target in ((z[0], z[1]), (z[1], z[0])):
        for q, t in zip(two(p, "predictor", online), target.detach(), strict=True):
            total = total - 0.5 * (q @ t) / (q.norm() * t.norm()) / ROWS
    return total


def moco_v3(p: Tensors, views: list[Tensor]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for online, target in (views, views[::-1]):
        z = norm(p, "projector.7", three(p, "projector", features(p, online)))
        q = norm(p, "predictor.4", two(p, "predictor", z))
        k = three(p, "momentum.projector", features(p, target, "momentum."))
        k = norm(p, "momentum.projector.7", k)
        total = total + 2 * 0.2 * cross_entropy(unit(q) @ unit(k).T / 0.2)
    return total


def vicreg(p: Tensors, views: list[Tensor]) -> Tensor:
    z = [three(p, "projector", features(p, x)) for x in views]
    count, size = z[0].shape
    total = 25 * sum((a - b).square().mean() for a, b in zip(*z, strict=True)) / count
    for v in z:
        deviations = (v.var(0, correction=1) + 1e-4).sqrt()
        assert 0 < (deviations < 1).sum() < size  # on both sides of the hinge
        total = total + 25 * sum(torch.clamp(1 - s, min=0) for s in deviations) / size
        centerd = v - v.mean(0)
        covariance = sum(torch.outer(row, row) for row in centerd) / (count - 1)
        total = total + sum(covariance[i, j] ** 2 for i in range(size) for j in range(size) if i != j) / size
    return total


def barlow_twins(p: Tensors, views: list[Tensor]) -> Tensor:
    a, b = [three(p, "projector", features(p, x)) for x in views]
    a, b = a - a.mean(0), b - b.mean(0)
    total = torch.zeros((), dtype=a.dtype)
    for i in range(a.shape[1]):
        for j in range(a.shape[1]):
            c = a[:, i] @ b[:, j] / (a[:, i].norm() * b[:, j].norm())
            total = total + ((1 - c) ** 2 if i == j else 0.0051 * c**2)
    return total


def nnclr(p: Tensors, views: list[Tensor]) -> Tensor:
    z = [norm(p, "projector.7", three(p, "projector", features(p, x))) for x in views]
    neighbors = [p["queue.rows"][(unit(v) @ p["queue.rows"].T).argmax(1)] for v in z]
    predicted = [unit(two(p, "predictor", v)) for v in z]
    pairs = [(neighbors[0], predicted[1]), (neighbors[1], predicted[0])]
    return torch.stack([cross_entropy(unit(n) @ q.T / 0.1) for n, q in pairs]).mean()


def msf(p: Tensors, views: list[Tensor]) -> Tensor:
    queries = unit(two(p, "predictor", two(p, "projector", features(p, views[0]))))
    targets = unit(two(p, "momentum.projector", features(p, views[1], "momentum.")))
    bank = torch.cat([targets, p["queue.rows"][ROWS:]])  # the oldest rows are gone
    total = torch.zeros((), dtype=queries.dtype)
    for i, (q, t) in enumerate(zip(queries, targets, strict=True)):
        nearest = (2 - 2 * bank @ t).argsort()[:5]
        assert nearest[0] == i
        total = total + sum(2 - 2 * q @ bank[n] for n in nearest) / 5
    return total / ROWS


def lejepa(p: Tensors, views: list[Tensor]) -> Tensor:
    z = [three(p, "projector", features(p, x)) for x in views]
    center = (z[0] + z[1]) / 2
    prediction = torch.stack([(v - center) ** 2 for v in z]).mean()
    generator = torch.Generator().manual_seed(0)  # the seed of a method that no engine trains
    drawn = torch.randn(z[0].shape[1], 1024, generator=generator, dtype=z[0].dtype)
    t = torch.linspace(-5, 5, 17, dtype=z[0].dtype)
    normal, statistics = torch.exp(-(t**2) / 2), []
    for v in z:
        for direction in drawn.T:
            x = v @ direction / direction.norm()
            error = torch.exp(1j * t[:, None] * x).mean(1) - normal
            statistics.append(ROWS * torch.trapezoid((error.real**2 + error.imag**2) * normal, t))
    return 0.95 * prediction + 0.05 * torch.stack(statistics).mean()


FORMULAS: dict[str, Callable[[Tensors, list[Tensor]], Tensor]] = {
    f.__name__: f for f in (simclr, byol, simsiam, moco_v3, vicreg, barlow_twins, nnclr, msf, lejepa)
}


def make(name: str) -> Method:
    """The method in float64, with a momentum copy that has gone another way than what it follows."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 10), nn.Tanh())
    network.feature_dim = 10
    method = SMALL[name].build(cast(Backbone, network), 0).double()
    with torch.no_grad():
        for copy, _ in method.ema_pairs():
            for parameter in copy.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        if name == "vicreg":
            last = method.projector[6].weight
            last.mul_(torch.linspace(0.2, 5, len(last), dtype=last.dtype)[:, None])
    return method


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(ROWS, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2)]


def computed(name: str) -> Result:
    """What this rank's method makes of its rows, and the engine of all ranks' gradients."""
    method = make(name)
    synchronize_batch_norm(method, torch.device("cpu"))
    own = slice(rank() * ROWS // world_size(), (rank() + 1) * ROWS // world_size())
    ids = torch.arange(ROWS)[own]
    out = method([x[own] for x in images()], torch.full_like(ids, -1), ids)
    out.loss.backward()
    gradients = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    return Result(
        all_reduce_sum(out.loss.detach()) / world_size(),
        {n: all_reduce_sum(g) / world_size() for n, g in gradients.items()},
    )


def expected(name: str) -> Result:
    method = make(name)
    tensors = {n: t.detach().clone() for n, t in method.state_dict().items()}
    learn = [n for n, p in method.named_parameters() if p.requires_grad]
    for n in learn:
        tensors[n].requires_grad_()
    loss = FORMULAS[name](tensors, images())
    gradients = torch.autograd.grad(loss, [tensors[n] for n in learn])
    return Result(loss.detach(), dict(zip(learn, gradients, strict=True)))


def all_computed() -> dict[str, Result]:
    return {name: computed(name) for name in FORMULAS}


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Result]]:
    return run_as_ranks(all_computed, 2, tmp_path_factory.mktemp("ranks"), ())


def test_every_method_has_a_formula() -> None:
    beside = {name for name in available() if Path(__file__).with_name(f"test_{name}.py").exists()}
    assert set(available()) - beside == {*FORMULAS, "all4one"}


@pytest.mark.parametrize("name", FORMULAS)
def test_one_process_computes_the_formula(name: str) -> None:
    assert_same(computed(name), expected(name))


@pytest.mark.parametrize("name", FORMULAS)
def test_two_ranks_compute_the_formula_of_the_whole_batch(on_two_ranks, name: str) -> None:
    wanted = expected(name)
    for result in on_two_ranks:
        assert_same(result[name], wanted)
