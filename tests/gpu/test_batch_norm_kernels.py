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
