import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.contrast.losses import (
    barlow_twins,
    distance_to_center,
    feature_contrast,
    gather_keys,
    info_nce,
    mean_shift,
    normalized_squared_error,
    nt_xent,
    sigreg,
    symmetric,
    vicreg,
)
from trainer.distributed.collectives import all_reduce_sum, rank, world_size


def straight_nce(queries: Tensor, keys: Tensor, t: float) -> Tensor:
    q, k = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
    total = torch.zeros((), dtype=q.dtype)
    for i in range(len(q)):
        scores = torch.stack([q[i] @ k[j] / t for j in range(len(k))])
        total = total - (scores[i] - scores.exp().sum().log())
    return total / len(q)


def straight_features(m: list[Tensor], z: list[Tensor]) -> Tensor:
    size = m[0].shape[1]
    on, off = [], []
    for i, j in ((0, 1), (1, 0)):
        for a in range(size):
            for b in range(size):
                x, y = m[i][:, a], z[j][:, b]
                c = (x @ y) / (x.norm() * y.norm())
                (on if a == b else off).append((c - 1) ** 2 if a == b else c**2)
    return 10 * (0.5 * torch.stack(on).mean().sqrt() + 0.5 * torch.stack(off).mean().sqrt())


def straight_barlow(z1: Tensor, z2: Tensor, redundancy: float) -> Tensor:
    a = (z1 - z1.mean(0)) / z1.std(0, correction=0)
    b = (z2 - z2.mean(0)) / z2.std(0, correction=0)
    c = a.T @ b / len(a)
    eye = torch.eye(len(c), dtype=c.dtype)
    weight = eye + redundancy * (1 - eye)
    return ((c - eye) ** 2 * weight).sum()


def contrast(queries: Tensor, keys: Tensor, t: float) -> Tensor:
    return info_nce(queries, gather_keys([keys])[0], temperature=t)


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_nce_is_cross_entropy_against_the_own_row() -> None:
    q, k = double(6, 4), double(6, 4)
    torch.testing.assert_close(contrast(q, k, 0.2), straight_nce(q, k, 0.2))


def test_feature_contrast_and_barlow_twins_follow_their_formulas() -> None:
    m, z = [double(9, 5), double(9, 5)], [double(9, 5), double(9, 5)]
    torch.testing.assert_close(feature_contrast(m, z[::-1]), straight_features(m, z))
    torch.testing.assert_close(barlow_twins(*z, redundancy=0.0051), straight_barlow(*z, 0.0051))


def test_barlow_twins_with_an_epsilon_is_that_of_two_batch_norms() -> None:
    z = [double(9, 5), double(9, 5)]
    a, b = (torch.nn.functional.batch_norm(v, None, None, training=True, eps=0.1) for v in z)
    c = a.T @ b / 9
    weight = torch.full_like(c, 0.3).fill_diagonal_(1.0)
    wanted = ((c - torch.eye(5)) ** 2 * weight).sum()
    torch.testing.assert_close(barlow_twins(*z, redundancy=0.3, variance_epsilon=0.1), wanted)


def test_symmetric_is_the_mean_over_ordered_pairs() -> None:
    left, right = [torch.tensor(1.0), torch.tensor(2.0)], [torch.tensor(10.0), torch.tensor(20.0)]
    assert symmetric(torch.mul, left, right) == (1 * 20 + 2 * 10) / 2


def test_feature_contrast_of_equal_orthogonal_columns_has_a_finite_gradient() -> None:
    z = torch.eye(4, dtype=torch.float64, requires_grad=True)
    loss = feature_contrast([z.detach(), z.detach()], [z, z])
    loss.backward()
    assert loss == 0
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_losses_stay_in_full_precision_under_autocast() -> None:
    q, k = torch.randn(8, 16), torch.randn(8, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert contrast(q.bfloat16(), k.bfloat16(), 0.1).dtype == torch.float32
        inside = contrast(q, k, 0.1)
    assert torch.equal(inside, contrast(q, k, 0.1))


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b: nt_xent([a, b], temperature=0.1),
        normalized_squared_error,
        lambda a, b: torch.stack(list(vicreg(a, b).values())),
        lambda a, b: mean_shift(a, b[:, None]),
        lambda a, b: distance_to_center([a, b], global_views=1),
        lambda a, b: sigreg([a, b], F.normalize(torch.ones(16, 1), dim=0), points=17, limit=5),
    ],
)
def test_losses_of_bf16_embeddings_are_those_of_their_float32_values(loss) -> None:
    a, b = torch.randn(8, 16).bfloat16(), torch.randn(8, 16).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(a, b)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, loss(a.float(), b.float()))


def test_vicreg_of_constant_embeddings_has_a_finite_gradient() -> None:
    z = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    terms = vicreg(z, z)
    torch.stack(list(terms.values())).sum().backward()
    assert float(terms["variance"].detach()) == pytest.approx(2 * (1 - 0.01))
    assert z.grad is not None
    assert z.grad.isfinite().all()


def losses_of_rows(name: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    rows = slice(rank() * len(a) // world_size(), (rank() + 1) * len(a) // world_size())
    own_a, own_b = a[rows].clone(), b[rows].clone().requires_grad_()
    loss = {
        "nce": lambda: contrast(own_a, own_b, 0.2),
        "packed": lambda: symmetric(
            lambda q, k: info_nce(q, k, temperature=0.2), [own_a, own_b], gather_keys([own_a, own_b])
        ),
        "feature": lambda: feature_contrast([own_a, own_a], [own_b, own_b], scope="global"),
        "barlow": lambda: barlow_twins(own_b, own_a, redundancy=0.01),
    }[name]()
    loss.backward()
    assert own_b.grad is not None
    return all_reduce_sum(loss.detach()) / world_size(), own_b.grad / world_size()


@pytest.mark.parametrize("name", ["nce", "packed", "feature", "barlow"])
def test_ranks_together_compute_the_loss_and_gradient_of_the_whole_batch(run_ranks, name: str) -> None:
    a, b = double(8, 5), double(8, 5)
    loss, gradient = losses_of_rows(name, a, b)
    results = run_ranks(losses_of_rows, 2, name, a, b)
    for part, _ in results:
        torch.testing.assert_close(part, loss)
    torch.testing.assert_close(torch.cat([g for _, g in results]), gradient)
