"""INTL against its formula in float64, on one process and on two; its whitening, and the weight of the trace loss."""

import pytest
import torch
from multi_crop import ROWS, build, computed, features, result, tensors, views
from straight_formulas import Result, assert_same, three, unit
from torch import Tensor

from data_pipelines.errors import UserError
from trainer.config.schema import load_config
from trainer.contrast.whitening import trace_loss, whiten_iteratively
from trainer.methods import Method
from trainer.methods.intl import INTLSettings


def make() -> Method:
    return build(INTLSettings(projector_hidden=16, embedding_dim=12, trace_weight=0.3))


def covariance_of(x: Tensor) -> Tensor:
    """Of the rows of x [N, D] over their features, [N, N]."""
    return torch.stack([torch.stack([torch.cov(torch.stack([a, b]))[0, 1] for b in x]) for a in x])


def whitened(x: Tensor, iterations: int = 4) -> Tensor:
    """P_T (x - mean) / sqrt(tr S) with P_0 = 1 and P_k = (3 P - P^3 S / tr S) / 2, in the eigenbasis of S."""
    values, vectors = torch.linalg.eigh(covariance_of(x))
    trace = values.sum()
    diagonal = torch.ones_like(values)
    for _ in range(iterations):
        diagonal = (3 * diagonal - diagonal**3 * values / trace) / 2
    scaled = vectors @ torch.diag(diagonal) @ vectors.T
    return torch.stack([sum(s * (row - row.mean()) for s, row in zip(r, x, strict=True)) for r in scaled]) / (
        trace.sqrt()
    )


def expected() -> Result:
    p, learn = tensors(make())
    t = [whitened(three(p, "projector", features(p, x))) for x in views()]
    traces = [sum((covariance_of(v)[j, j] - 1) ** 2 for j in range(ROWS)) for v in t]
    total = torch.zeros((), dtype=torch.float64)
    for view in range(1, len(t)):
        total = total + (2 - 2 * (unit(t[0]) * unit(t[view])).sum(1)).mean()
        total = total + 0.3 * (traces[0] + traces[view])
    return result(total / (len(t) - 1), p, learn)


def on_this_rank() -> Result:
    return computed(make())


@pytest.mark.parametrize("ranks", [1, 2])
def test_loss_and_gradients_are_those_of_the_whole_batch(run_ranks, ranks: int) -> None:
    for found in run_ranks(on_this_rank, ranks):
        assert_same(found, expected())


def rows(number: int = 6, size: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    mixed = torch.eye(number, dtype=torch.float64)
    mixed = mixed + 0.3 * torch.randn(number, number, generator=generator, dtype=torch.float64)
    return mixed @ torch.randn(number, size, generator=generator, dtype=torch.float64) + 5


def test_many_iterations_whiten_and_few_bring_the_spectrum_closer_to_that() -> None:
    torch.testing.assert_close(
        torch.cov(whiten_iteratively(rows(), iterations=12)), torch.eye(6, dtype=torch.float64)
    )
    smallest = [
        float(torch.linalg.eigvalsh(torch.cov(whiten_iteratively(rows(), iterations=t)))[0])
        for t in range(1, 8)
    ]
    assert smallest == sorted(smallest)
    assert smallest[-1] < 1
    assert trace_loss(whiten_iteratively(rows(), iterations=12)) < 1e-9
    assert trace_loss(whiten_iteratively(rows(), iterations=2)) > 0.1


def test_the_result_does_not_depend_on_the_scale_of_the_rows() -> None:
    torch.testing.assert_close(
        whiten_iteratively(1000 * rows() + 7, iterations=4), whiten_iteratively(rows(), iterations=4)
    )


def test_the_weight_of_the_trace_loss_follows_the_batch_unless_it_is_set() -> None:
    settings = INTLSettings()
    assert [settings.trace_weight_for(n) for n in (256, 1024, 8, 4)] == pytest.approx([0.05, 0.07, 0, 0])
    assert INTLSettings(trace_weight=0.2).trace_weight_for(256) == 0.2
    with pytest.raises(UserError, match=r"method\.trace_weight"):
        load_config("cifar10_intl", ["method.trace_weight=-1"])


def test_both_terms_are_logged_and_make_the_loss() -> None:
    out = make()([x[:6] for x in views()], torch.full((6,), -1), torch.arange(6))
    torch.testing.assert_close(out.loss.detach(), out.parts["invariance"] + 0.3 * out.parts["trace"])
