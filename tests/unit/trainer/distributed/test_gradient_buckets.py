import torch
from torch import Tensor, nn

from trainer.distributed import gradient_buckets
from trainer.distributed.collectives import rank
from trainer.distributed.gradient_buckets import GradientBuckets

ROWS = 6


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.unused = nn.Linear(3, 3)
        self.shared = nn.Linear(8, 8)  # used twice
        self.large = nn.Linear(8, 64)
        self.on_one_rank = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        out = self.large(self.shared(self.shared(self.convolution(x).mean((2, 3)))))
        return (out.square().sum() + rank() * self.on_one_rank.sum()) / len(x)


def averaged(net: Net, x: Tensor, dtype: torch.dtype, accumulation: int) -> list[list[Tensor]]:
    """Gradients of two updates, the second on twice the images."""
    gradient_buckets.BUCKET = 300
    net = net.to(memory_format=torch.channels_last)
    due = [False]
    buckets = GradientBuckets(list(net.parameters()), dtype, lambda: due[0])
    assert len(buckets._buckets) > 2
    updates = []
    for factor in (1, 2):
        own = (factor * x).chunk(2)[rank()]
        for index, part in enumerate(own.chunk(accumulation)):
            due[0] = index == accumulation - 1
            (net(part) / accumulation).backward()
        buckets.finish()
        updates.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
        net.zero_grad()
    return updates


def check(run_ranks, dtype: torch.dtype, accumulation: int, tolerance: float) -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.randn(2 * ROWS, 3, 5, 5)
    results = run_ranks(averaged, 2, net, x, dtype, accumulation)
    for number, factor in enumerate((1, 2)):
        net.zero_grad()
        net(factor * x).backward()
        net.on_one_rank.grad = torch.full((5,), 0.5 / (ROWS // accumulation))
        for result in results:
            for gradient, parameter in zip(result[number], net.parameters(), strict=True):
                expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                assert (gradient - expected).norm() <= tolerance * expected.norm()
        assert all(torch.equal(a, b) for a, b in zip(results[0][number], results[1][number], strict=True))


def test_gradients_are_averages_also_of_parameters_that_are_not_used(run_ranks) -> None:
    check(run_ranks, torch.float32, 1, 1e-5)


def test_micro_batches_are_averaged_once(run_ranks) -> None:
    check(run_ranks, torch.float32, 3, 1e-5)


def test_sums_in_bf16_are_rounded(run_ranks) -> None:
    check(run_ranks, torch.bfloat16, 1, 1e-2)
