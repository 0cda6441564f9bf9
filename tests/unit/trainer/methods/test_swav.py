"""SwAV against its paper's equations in float64, on one process and on two; its codes, and its prototypes."""

import pytest
import torch
from multi_crop import ROWS, build, computed, features, result, tensors, views
from straight_formulas import Result, assert_same, two, unit
from torch import Tensor

from trainer.contrast.assignments import sinkhorn
from trainer.distributed.collectives import rank, world_size
from trainer.methods import Method
from trainer.methods.swav import SwAVSettings
from trainer.networks.prototypes import normalize_rows

PROTOTYPES = 12


def make() -> Method:
    return build(SwAVSettings(projector_hidden=16, embedding_dim=8, prototypes=PROTOTYPES))


def codes_of(cosines: Tensor, iterations: int = 3) -> Tensor:
    """Q* = B diag(u) exp(C^T Z / ε) diag(v) of equation 5, with u and v by turns (Cuturi, NeurIPS 2013): [B, K]."""
    m = (cosines / 0.05).exp().T  # [K, B]
    k, b = m.shape
    v = torch.ones(b, dtype=m.dtype)
    for _ in range(iterations):
        u = 1 / (k * (m @ v))
        v = 1 / (b * (m.T @ u))
    return b * (u[:, None] * m * v).T


def expected() -> Result:
    p, learn = tensors(make())
    z = [unit(two(p, "projector", features(p, x))) for x in views()]
    assert torch.allclose(p["prototypes.weight"].norm(dim=1), torch.ones(PROTOTYPES, dtype=torch.float64))
    cosines = [v @ p["prototypes.weight"].T for v in z]
    total, pairs = torch.zeros((), dtype=torch.float64), 0
    for target in (0, 1):
        codes = codes_of(cosines[target].detach())
        for view in range(len(z)):
            if view == target:
                continue
            pairs += 1
            for row in range(ROWS):
                e = (cosines[view][row] / 0.1).exp()
                total = total - (codes[row] * (e / e.sum()).log()).sum() / ROWS
    return result(total / pairs, p, learn)


def on_this_rank() -> Result:
    return computed(make())


@pytest.mark.parametrize("ranks", [1, 2])
def test_loss_and_gradients_are_those_of_the_whole_batch(run_ranks, ranks: int) -> None:
    for found in run_ranks(on_this_rank, ranks):
        assert_same(found, expected())


def own_codes() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    cosines = torch.rand(2, 6, 4, generator=generator, dtype=torch.float64) * 2 - 1
    own = cosines.chunk(world_size(), dim=1)[rank()]
    return sinkhorn(list(own), epsilon=0.05, iterations=50)


@pytest.mark.parametrize("ranks", [1, 3])
def test_codes_spread_the_rows_of_all_ranks_evenly_over_the_prototypes(run_ranks, ranks: int) -> None:
    found = run_ranks(own_codes, ranks)
    generator = torch.Generator().manual_seed(3)
    cosines = torch.rand(2, 6, 4, generator=generator, dtype=torch.float64) * 2 - 1
    for view in range(2):
        codes = torch.cat([of_rank[view] for of_rank in found])
        torch.testing.assert_close(codes, codes_of(cosines[view], 50))
        torch.testing.assert_close(codes.sum(1), torch.ones(6, dtype=torch.float64))
        torch.testing.assert_close(
            codes.sum(0), torch.full((4,), 6 / 4, dtype=torch.float64), rtol=1e-3, atol=0
        )


def test_codes_stay_finite_in_float32_at_the_smallest_epsilon() -> None:
    cosines = torch.tensor([[1.0, -1.0, 0.9], [-1.0, 1.0, -0.9]])
    [codes] = sinkhorn([cosines], epsilon=0.02, iterations=3)
    assert codes.isfinite().all()


def test_prototypes_are_normalized_after_a_step_unless_the_update_was_left_out() -> None:
    method = make()
    weight = method.get_parameter("prototypes.weight")
    with torch.no_grad():
        weight.mul_(3)
    before = weight.clone()
    method.skip_update = torch.ones(())
    method.after_step(1, 10)
    assert torch.equal(weight, before)
    method.skip_update = torch.zeros(())
    method.after_step(1, 10)
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(PROTOTYPES, dtype=torch.float64))
    wanted = before.clone()
    normalize_rows(wanted)
    assert torch.equal(weight, wanted)
