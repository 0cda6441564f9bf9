"""The sum of two normalized batches equals that of torch's batch norms. The kernels run in Triton's interpreter."""

import copy

import pytest
import torch
from norm_passes import check, passed, whole
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


def widening_block() -> BasicBlock:
    """A block with a batch norm in its shortcut. The settings of the two last batch norms differ."""
    norm = nn.BatchNorm2d(6, eps=0.1, momentum=0.3)
    block = BasicBlock(
        4, 6, stride=2, downsample=nn.Sequential(nn.Conv2d(4, 6, 1, stride=2, bias=False), norm)
    )
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return block


@pytest.mark.parametrize("views", [1, 2])
def test_a_block_equals_that_of_torchvision_and_sends_one_message_for_both_norms(
    run_ranks, views: int
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(widening_block()).double()
    batches = [torch.randn(4, 4, 6, 6, dtype=torch.float64) * (n + 2) + n for n in range(views)]
    results = run_ranks(passed, 2, network, batches, True)
    check(results, whole(network, batches), 1e-9)
    for result in results:
        assert sorted(result["messages"]) == ["all_gather_single"] * 2 + ["all_reduce"] * 2


def test_more_rows_than_a_chunk(run_ranks) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(widening_block()).double()
    batches = [torch.randn(2, 4, 140, 122, dtype=torch.float64)]  # 4,270 rows of the result on a rank
    check(run_ranks(passed, 2, network, batches, True), whole(network, batches), 1e-9)


def test_a_block_in_float32_has_the_digits_of_float32(run_ranks) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(widening_block())
    batches = [torch.randn(4, 4, 6, 6)]
    exact: dict[str, Tensor] = whole(copy.deepcopy(network).double(), [batches[0].double()])
    check(
        run_ranks(passed, 2, network, batches, True),
        {
            name: value.to(torch.float32 if value.is_floating_point() else value.dtype)
            for name, value in exact.items()
        },
        1e-3,
    )
