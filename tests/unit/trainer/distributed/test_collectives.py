import pytest
import torch
from torch import Tensor

from trainer.distributed.collectives import all_reduce_sum, gather, pack, rank, unpack, world_size


def rows_of(x: Tensor, sizes: list[int]) -> Tensor:
    return x.split(sizes)[rank()]


def gather_and_differentiate(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    own = rows_of(x, [len(x) // world_size()] * world_size()).clone().requires_grad_()
    everything = gather(own)
    (everything * weight * (rank() + 1)).sum().backward()
    assert own.grad is not None
    return everything.detach(), own.grad


def test_gather_concatenates_in_rank_order_and_sums_the_gradients_of_all_ranks(run_ranks) -> None:
    x, weight = torch.randn(6, 3), torch.randn(6, 3)
    for r, (everything, gradient) in enumerate(run_ranks(gather_and_differentiate, 3, x, weight)):
        assert torch.equal(everything, x)
        torch.testing.assert_close(gradient, weight[2 * r : 2 * r + 2] * (1 + 2 + 3))


def sum_and_differentiate(x: Tensor) -> tuple[Tensor, Tensor]:
    own = x[rank()].clone().requires_grad_()
    total = all_reduce_sum(own)
    (total * (rank() + 1)).sum().backward()
    assert own.grad is not None
    return total.detach(), own.grad


def test_all_sum_adds_values_and_gradients(run_ranks) -> None:
    x = torch.randn(2, 4)
    for total, gradient in run_ranks(sum_and_differentiate, 2, x):
        torch.testing.assert_close(total, x.sum(0))
        torch.testing.assert_close(gradient, torch.full((4,), 3.0))


def test_one_process_needs_no_collective() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    assert gather(x) is x
    assert all_reduce_sum(x) is x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_packed_comes_out_bit_for_bit(dtype: torch.dtype) -> None:
    keys = torch.tensor([[0.1, -0.0], [float("nan"), float("-inf")], [1e-45, 3.0]], dtype=dtype)
    labels, ids = torch.tensor([-1, 2**40 + 1, 7]), torch.tensor([-(2**63), 2**63 - 1, 0])
    message = pack(keys, labels, ids)
    assert message.dtype == torch.int32
    words = torch.int32 if dtype == torch.float32 else torch.int64
    got_keys, got_labels, got_ids = unpack(torch.cat([message, message]), keys, labels, ids)
    assert got_keys.dtype == dtype
    assert torch.equal(got_keys.view(words), torch.cat([keys, keys]).view(words))
    assert torch.equal(got_labels, torch.cat([labels, labels]))
    assert torch.equal(got_ids, torch.cat([ids, ids]))
