"""Operations by the type in which they are multiplied, and the peak that fits them."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from trainer.profiling.dry_run.cards import CARDS
from trainer.profiling.peak import FlopsByType, card_speed, combined_peak, find_card, products_in

CONVOLUTION, PRODUCT = 2 * 2 * 4 * 3 * 9 * 8 * 8, 2 * 2 * 4 * 5


def step(device: str) -> None:
    """Forward pass of a convolution of 2 images, and a float32 matrix product."""
    images, weight = torch.ones(2, 3, 8, 8, device=device), torch.ones(4, 3, 3, 3, device=device)
    torch.conv2d(images, weight, padding=1)
    torch.ones(2, 4, device=device) @ torch.ones(4, 5, device=device)


def count(device: str) -> dict[str, int]:
    with FakeTensorMode(), FlopsByType() as counter:
        step(device)
    assert counter.total == CONVOLUTION + PRODUCT
    return dict(counter.flops)


def test_float32_convolutions_of_a_gpu_multiply_in_tf32_where_torch_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert count("cuda") == {"tf32": CONVOLUTION, "fp32": PRODUCT}
    assert count("cpu") == {"fp32": CONVOLUTION + PRODUCT}
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert count("cuda") == {"fp32": CONVOLUTION + PRODUCT}


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "bf16"), (torch.float16, "fp16")])
def test_what_autocast_casts_counts_in_its_type_and_the_rest_in_float32(
    dtype: torch.dtype, name: str
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 5))
    with FlopsByType() as counter, FlopCounterMode(display=False) as reference:
        with torch.autocast("cpu", dtype=dtype):
            out = network(torch.ones(2, 3, 3, 3))
        out.float().sum().backward()
        torch.ones(2, 4) @ torch.ones(4, 5)
    assert counter.total == reference.get_total_flops()
    assert counter.flops["fp32"] == PRODUCT
    assert counter.flops.keys() == {name, "fp32"}


def test_types_at_their_own_peaks_take_the_sum_of_their_times() -> None:
    peaks = {"tf32": 100.0, "fp32": 10.0}
    assert combined_peak({"tf32": 300.0}, peaks.__getitem__) == 100
    assert combined_peak({"tf32": 300.0, "fp32": 10.0}, peaks.__getitem__) == pytest.approx(310 / 4)


@pytest.mark.parametrize(
    ("device", "card"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("CPU, 2 threads per process", None),
    ],
)
def test_a_card_is_known_by_its_name(device: str, card: str | None) -> None:
    assert find_card(device) is (None if card is None else CARDS[card])


def test_the_data_sheet_has_a_speed_for_every_type() -> None:
    card = CARDS["h100"]
    assert card_speed(card, "fp16") == card_speed(card, "bf16") == 989.5e12
    assert card_speed(card, "tf32") == 494.7e12


def test_products_use_tf32_within_the_block_only() -> None:
    assert not torch.backends.cuda.matmul.allow_tf32
    with products_in("tf32") as dtype:
        assert torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert dtype == torch.float32
