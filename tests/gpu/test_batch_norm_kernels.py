"""The kernels of batch norm on a real GPU, against torch's batch norm in float64 on the same values."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.distributed import batch_norm_cuda  # noqa: F401 (defines the operations)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
VIEWS, EPS, MOMENTUM = 2, 1e-5, 0.1


def batch(channels: int, side: int, dtype: torch.dtype) -> Tensor:
    x = torch.randn(8, channels, side, side, device=DEVICE) * 2 + 1
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def plain(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """Torch's batch norm of each view, in float64."""
    views = [F.batch_norm(v, None, None, weight, bias, training=True, eps=EPS) for v in x.chunk(VIEWS)]
    out = torch.cat(views)
    if residual is not None:
        out = out + residual
    return out.relu() if relu else out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "side"), [(64, 56), (300, 7), (2048, 1), (3, 112)])
@pytest.mark.parametrize("follows", ["nothing", "relu", "residual", "residual, two gradients"])
def test_the_kernels_equal_torchs_batch_norm(
    dtype: torch.dtype, channels: int, side: int, follows: str
) -> None:
    torch.manual_seed(0)
    operations, relu = torch.ops.all4one, follows != "nothing"
    x, dy = batch(channels, side, dtype), batch(channels, side, dtype)
    residual = batch(channels, side, dtype) if follows.startswith("residual") else None
    dy2 = batch(channels, side, dtype) if follows.endswith("two gradients") else None
    weight = torch.rand(channels, device=DEVICE) + 0.5
    bias = torch.randn(channels, device=DEVICE)
    running_mean, running_var = torch.zeros(channels, device=DEVICE), torch.ones(channels, device=DEVICE)
    rows = x.numel() // channels // VIEWS

    own = operations.view_statistics(x, VIEWS)
    statistics = operations.combine_statistics(own[None], running_mean, running_var, MOMENTUM, EPS, rows)
    y = operations.normalize(x, weight, bias, statistics, residual, relu)
    if residual is None:
        sums = operations.gradient_sums(dy, x, weight, bias, statistics, relu)
        dx = operations.input_gradient(dy, x, weight, bias, statistics, sums, rows, relu)
    else:
        of_residual, sums = operations.residual_gradient_sums(dy, dy2, x, y, statistics)
        dx = operations.input_gradient(of_residual, x, weight, bias, statistics, sums, rows, False)

    exact = [t.double().requires_grad_() for t in (x, weight, bias)]
    added = None if residual is None else residual.double().requires_grad_()
    out = plain(exact[0], exact[1], exact[2], added, relu)
    # The activation of the kernels decides which gradients pass, since rounding may change a sign next to 0.
    dy = dy if dy2 is None else dy + dy2
    passed = dy.double() if not relu else torch.where(y > 0, dy, 0.0).double()
    before = plain(exact[0], exact[1], exact[2], added, relu=False)
    expected = torch.autograd.grad(before, [*exact, *([] if added is None else [added])], passed)
    exactness = 2e-4 if dtype == torch.float32 else 2e-2
    pairs = [(y, out), (dx, expected[0]), (sums.sum(0)[1], expected[1]), (sums.sum(0)[0], expected[2])]
    if residual is not None:
        pairs.append((of_residual, expected[3]))
    for found, reference in pairs:
        apart = (found.double() - reference.detach()).abs().max()
        assert float(apart / reference.detach().abs().max().clamp_min(1e-12)) < exactness


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_gradients_give_the_same_bits_as_their_sum(dtype: torch.dtype) -> None:
    dy, dy2, x, y = (batch(64, 14, dtype) for _ in range(4))
    statistics = torch.rand(VIEWS, 2, 64, device=DEVICE) + 0.5
    sums = torch.ops.all4one.residual_gradient_sums
    of_both, of_sum = sums(dy, dy2, x, y, statistics), sums(dy + dy2, None, x, y, statistics)
    for found, expected in zip(of_both, of_sum, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "side"), [(64, 56), (300, 7), (2048, 1)])
@pytest.mark.parametrize("gradients", [1, 2])
def test_the_sum_of_two_normalized_batches_equals_torchs(
    dtype: torch.dtype, channels: int, side: int, gradients: int
) -> None:
    torch.manual_seed(0)
    operations = torch.ops.all4one
    x, x2, dy, added = (batch(channels, side, dtype) for _ in range(4))
    dy2 = added if gradients == 2 else None
    weight, weight2 = (torch.rand(channels, device=DEVICE) + 0.5 for _ in range(2))
    bias, bias2 = (torch.randn(channels, device=DEVICE) for _ in range(2))
    running = torch.zeros(4, channels, device=DEVICE)
    rows = x.numel() // channels // VIEWS

    found = torch.stack([operations.view_statistics(part, VIEWS) for part in (x, x2)])[
        None
    ]  # [1, 2, V, 2, C]
    statistics, statistics2 = (
        operations.combine_statistics(part, running[2 * n], running[2 * n + 1], MOMENTUM, EPS, rows)
        for n, part in enumerate(found.unbind(1))
    )
    y = operations.normalize_two(x, weight, bias, statistics, x2, weight2, bias2, statistics2)
    masked, sums = operations.gradient_sums_of_two(dy, dy2, x, x2, y, statistics, statistics2)
    dx, dx2 = operations.input_gradients_of_two(
        masked, x, weight, statistics, x2, weight2, statistics2, sums, rows
    )

    exact = [t.double().requires_grad_() for t in (x, weight, bias, x2, weight2, bias2)]
    before = plain(*exact[:3], None, False) + plain(*exact[3:], None, False)
    dy = dy if dy2 is None else dy + dy2
    expected = torch.autograd.grad(before, exact, torch.where(y > 0, dy, 0.0).double())
    own = sums.sum(1)
    results = [y, dx, own[0, 1], own[0, 0], dx2, own[1, 1], own[1, 0]]
    exactness = 2e-4 if dtype == torch.float32 else 2e-2
    for result, reference in zip(results, [before.relu(), *expected], strict=True):
        apart = (result.double() - reference.detach()).abs().max()
        assert float(apart / reference.detach().abs().max().clamp_min(1e-12)) < exactness
