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


def make(**settings: int) -> Method:
    return build(SwAVSettings(projector_hidden=16, embedding_dim=8, prototypes=PROTOTYPES, **settings))


QUEUE = 11
"""Rows of the queue, which two ranks cannot split evenly."""


def codes_of(cosines: Tensor, iterations: int = 3) -> Tensor:
    """Q* = B diag(u) exp(C^T Z / ε) diag(v) of equation 5, with u and v by turns (Cuturi, NeurIPS 2013): [B, K]."""
    m = (cosines / 0.05).exp().T  # [K, B]
    k, b = m.shape
    v = torch.ones(b, dtype=m.dtype)
    for _ in range(iterations):
        u = 1 / (k * (m @ v))
        v = 1 / (b * (m.T @ u))
    return b * (u[:, None] * m * v).T


def expected(kept: Tensor | None = None) -> Result:
    """The loss and its gradients. `kept` [2, Q, D]: rows of the queue for both global views, if it counts."""
    p, learn = tensors(make())
    z = [unit(two(p, "projector", features(p, x))) for x in views()]
    assert torch.allclose(p["prototypes.weight"].norm(dim=1), torch.ones(PROTOTYPES, dtype=torch.float64))
    cosines = [v @ p["prototypes.weight"].T for v in z]
    total, pairs = torch.zeros((), dtype=torch.float64), 0
    for target in (0, 1):
        rows = cosines[target].detach()
        if kept is not None:
            rows = torch.cat([kept[target] @ p["prototypes.weight"].detach().T, rows])
        codes = codes_of(rows)[-ROWS:]
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


def with_queue() -> Method:
    return make(queue_size=QUEUE, queue_from_step=2)


def kept_rows() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return unit(torch.randn(2, QUEUE, 8, generator=generator, dtype=torch.float64))


def on_this_rank_with_a_queue(step: int, filled: int) -> tuple[Result, int]:
    """What a step computes with so many filled rows of the queue, and the number of rows that it adds."""
    method = with_queue()
    method.step = step
    assert method.queue is not None
    method.queue.rows.copy_(torch.cat(list(kept_rows()), dim=1))
    method.queue.ids[:filled] = torch.arange(filled)
    found = computed(method)
    before = int(method.queue.head)
    method.after_backward()
    return found, (int(method.queue.head) - before) % QUEUE


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    ("step", "filled", "counts", "added"),
    [(1, QUEUE, False, 0), (2, QUEUE, True, ROWS), (2, QUEUE - 1, False, ROWS)],
    ids=["before its first step", "full", "not yet full"],
)
def test_a_full_queue_takes_part_in_the_codes_of_all_ranks(
    run_ranks, ranks: int, step: int, filled: int, counts: bool, added: int
) -> None:
    wanted = expected(kept_rows() if counts else None)
    for found, rows in run_ranks(on_this_rank_with_a_queue, ranks, step, filled):
        assert_same(found, wanted)
        assert rows == added


def embeddings_in_queue() -> Tensor:
    method = with_queue()
    method.step = 2
    computed(method)
    method.after_backward()
    assert method.queue is not None
    return method.queue.rows[:ROWS].clone()


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_queue_keeps_both_global_views_of_all_ranks(run_ranks, ranks: int) -> None:
    p, _ = tensors(make())
    z = [unit(two(p, "projector", features(p, x))) for x in views()[:2]]
    for found in run_ranks(embeddings_in_queue, ranks):
        torch.testing.assert_close(found, torch.cat(z, dim=1).detach())


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
