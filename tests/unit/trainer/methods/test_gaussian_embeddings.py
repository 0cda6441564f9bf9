"""LeJEPA beyond its formula for two views: local views, the statistic itself, and directions drawn from a seed."""

import math

import pytest
import torch
from deepspeed_ranks import engine_of, tiny, train
from small_methods import SMALL
from torch import Tensor

from data_pipelines.errors import UserError
from trainer.config.schema import load_config
from trainer.contrast.losses import distance_to_center, sigreg
from trainer.distributed.collectives import gather
from trainer.methods.lejepa import LeJEPA, LeJEPASettings
from trainer.networks.backbones import BackboneSettings, build_backbone


def embeddings(views: int, rows: int = 6, size: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(views)
    return list(torch.randn(views, rows, size, generator=generator, dtype=torch.float64))


def make(**settings: int) -> LeJEPA:
    torch.manual_seed(0)
    own = LeJEPASettings(projector_hidden=16, embedding_dim=8, num_directions=32, **settings)
    return own.build(build_backbone(BackboneSettings(width=8), 16), 0)


@pytest.mark.parametrize("global_views", [1, 2, 3])
def test_local_views_predict_the_center_of_the_global_ones(global_views: int) -> None:
    z = embeddings(3)
    center = sum(z[:global_views]) / global_views
    wanted = sum(((v - center) ** 2).mean() for v in z) / 3
    torch.testing.assert_close(distance_to_center(z, global_views=global_views), wanted)


@pytest.mark.parametrize("points", [3, 17, 41])
def test_the_statistic_is_that_of_the_whole_interval(points: int) -> None:
    z, t = embeddings(3), torch.linspace(-2, 2, points, dtype=torch.float64)
    directions = torch.eye(4, dtype=torch.float64)[:, :3]
    normal, found = torch.exp(-(t**2) / 2), []
    for v in z:
        for column in range(3):
            phi = torch.stack([torch.complex((s * v[:, column]).cos(), (s * v[:, column]).sin()) for s in t])
            found.append(6 * torch.trapezoid((phi.mean(1) - normal).abs() ** 2 * normal, t))
    torch.testing.assert_close(
        sigreg(z, directions, points=points, limit=2.0), torch.stack(found).mean(), rtol=1e-12, atol=1e-12
    )


def test_the_statistic_is_small_for_normal_numbers_and_large_for_collapsed_ones() -> None:
    directions = torch.ones(1, 1, dtype=torch.float64)
    uniform = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
    quantiles = math.sqrt(2) * torch.erfinv(2 * uniform - 1)[:, None]
    options = {"points": 17, "limit": 5.0}
    assert sigreg([quantiles], directions, **options) < 1e-3
    assert sigreg([torch.zeros_like(quantiles)], directions, **options) > 1000


def test_local_views_of_another_size_train() -> None:
    method = make(global_views=2)
    views = [torch.randn(4, 3, size, size) for size in (16, 16, 8)]
    out = method(views, torch.full((4,), -1), torch.arange(4))
    out.loss.backward()
    assert out.parts["loss"] == 0.95 * out.parts["prediction"] + 0.05 * out.parts["sigreg"]


def test_directions_are_unit_vectors_and_change_with_the_seed_only() -> None:
    method = make()
    first = method._directions()
    torch.testing.assert_close(first.norm(dim=0), torch.ones(32))
    torch.manual_seed(5)
    assert torch.equal(method._directions(), first)
    method.shared_seed = 1
    assert not torch.equal(method._directions(), first)


def directions_of_steps(steps: range) -> list[Tensor]:
    """The directions of each micro-batch of some steps, [micro-batches, D, M] for each rank."""
    drawn: list[Tensor] = []
    config = tiny("train.grad_accum_steps=2").model_copy(update={"method": SMALL["lejepa"]})
    with engine_of(config) as engine:
        draw = engine.method._directions

        def kept() -> Tensor:
            drawn.append(draw())
            return drawn[-1]

        engine.method._directions = kept
        train(engine, config, steps)
    return list(gather(torch.stack(drawn)).chunk(torch.distributed.get_world_size()))


@pytest.mark.slow
def test_directions_are_the_same_on_all_ranks_and_after_a_resume(run_ranks) -> None:
    whole, later = (
        run_ranks(directions_of_steps, 2, range(3))[0],
        run_ranks(directions_of_steps, 2, range(2, 3))[0],
    )
    assert torch.equal(whole[0], whole[1])
    assert len({float(directions[0, 0]) for directions in whole[0]}) == 6  # two micro-batches of three steps
    assert torch.equal(later[0], whole[0][4:])


def test_an_even_number_of_points_and_too_few_views_are_errors() -> None:
    with pytest.raises(UserError, match="integration_points must be odd, not 16"):
        load_config("cifar10", ["method.name=lejepa", "method.integration_points=16"])
    with pytest.raises(UserError, match="must list at least 3 views"):
        load_config("cifar10", ["method.name=lejepa", "method.global_views=3"])
