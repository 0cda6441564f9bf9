"""The kernels of layer norm on a real GPU, against torch's layer norm in float64 on the same values."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainer.networks.layer_norms import keep_autocast_dtype

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE, EPS = "cuda", 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "columns"), [(4 * 197, 384), (50_000, 96), (1300, 387), (64, 4096), (3, 5000), (1, 64)]
)
def test_the_kernels_equal_torchs_layer_norm(dtype: torch.dtype, rows: int, columns: int) -> None:
    torch.manual_seed(0)
    x = (torch.randn(rows, columns, device=DEVICE) * 2 + 1).to(dtype)
    dy = torch.randn(rows, columns, device=DEVICE).bfloat16()
    weight = torch.rand(columns, device=DEVICE) + 0.5
    bias = torch.randn(columns, device=DEVICE)
    out, statistics = torch.ops.all4one.layer_norm(x, weight, bias, EPS, torch.bfloat16)
    dx, sums = torch.ops.all4one.layer_norm_gradients(dy, x, weight, statistics)

    exact = [t.double().requires_grad_() for t in (x, weight, bias)]
    reference = F.layer_norm(exact[0], (columns,), exact[1], exact[2], EPS)
    expected = torch.autograd.grad(reference, exact, dy.double())
    assert (out.dtype, dx.dtype, sums.dtype) == (torch.bfloat16, dtype, torch.float32)
    coarse, fine = 1e-2, 2e-4
    for found, wanted, exactness in (
        (out, reference, coarse),
        (dx, expected[0], fine if dtype == torch.float32 else coarse),
        (sums[0], expected[1], fine),
        (sums[1], expected[2], fine),
    ):
        apart = (found.double() - wanted.detach()).abs().max()
        assert float(apart / wanted.detach().abs().max().clamp_min(1e-12)) < exactness


def test_equal_inputs_give_equal_bits() -> None:
    x = torch.randn(50_000, 387, device=DEVICE)
    weight = torch.rand(387, device=DEVICE)
    _, statistics = torch.ops.all4one.layer_norm(x, weight, weight, EPS, torch.bfloat16)
    first, again = (torch.ops.all4one.layer_norm_gradients(x, x, weight, statistics) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_layer_norm_keeps_the_type_of_autocast() -> None:
    network = nn.Sequential(nn.LayerNorm(384)).to(DEVICE)
    keep_autocast_dtype(network)
    x = torch.randn(4, 197, 384, device=DEVICE).bfloat16().requires_grad_()
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        out = network(x)
    out.float().square().sum().backward()
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), F.layer_norm(x.float(), (384,)), rtol=1e-2, atol=1e-2)
