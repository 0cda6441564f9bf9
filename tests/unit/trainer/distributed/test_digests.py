import pytest
import torch
from checkpoints import any_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.distributed.digests import BLOCK, BLOCKS_AT_ONCE, _block_sums, combined, digest, digests

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]
SIZES = [1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5]


def raw(tensor: Tensor) -> Tensor:
    """The bytes of a contiguous tensor, which share its memory."""
    return tensor.view(-1).view(torch.uint8)


def noise(dtype: torch.dtype, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if dtype is torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator).view(dtype).view(shape)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40, deadline=None)
@given(size=st.sampled_from(SIZES), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(dtype: torch.dtype, size: int, where: float, bit: int) -> None:
    tensor = noise(dtype, size)
    before = digest(tensor).clone()
    place = int(where * len(raw(tensor)))
    raw(tensor)[place] ^= 1 if dtype is torch.bool else 1 << bit
    assert digest(tensor) != before


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [(0, 1), (1, 3), (2, 3)])
def test_swapped_rows_are_found_also_between_blocks(dtype: torch.dtype, rows: tuple[int, int]) -> None:
    tensor = noise(dtype, 4, BLOCK)
    before = digest(tensor)
    tensor[list(rows)] = tensor[list(rows[::-1])].clone()
    assert digest(tensor) != before


def test_a_word_that_swaps_its_place_in_the_block_with_its_block_is_found() -> None:
    tensor = torch.zeros(10 * BLOCK)
    tensor[5 * BLOCK + 7] = 1
    other = torch.zeros(10 * BLOCK)
    other[7 * BLOCK + 5] = 1
    assert digest(tensor) != digest(other)


@settings(max_examples=60, deadline=None)
@given(tensor=any_tensors())
def test_only_the_content_counts_not_the_memory_format(tensor: Tensor) -> None:
    assert digest(tensor) == digest(tensor.contiguous())
    assert digest(tensor.reshape(-1)) == digest(tensor)


def test_channels_last_has_the_digest_of_its_content() -> None:
    tensor = torch.randn(6, 5, 3, 3)
    assert digest(tensor.to(memory_format=torch.channels_last)) == digest(tensor)


def test_zeros_of_both_signs_and_nan_payloads_differ() -> None:
    assert digest(torch.tensor([0.0])) != digest(torch.tensor([-0.0]))
    payloads = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert digest(payloads[:1]) != digest(payloads[1:])


def test_tensors_that_swap_places_change_the_combined_digest() -> None:
    tensors = [torch.randn(3), torch.empty(0), torch.tensor(4), torch.randn(2, 2).bfloat16()]
    numbers = digests(tensors, CPU)
    assert numbers.shape == (4,)
    assert combined(numbers) != combined(numbers[[1, 0, 2, 3]])
    assert combined(digests([], CPU)) == 0


def test_several_blocks_at_once_have_the_same_sums() -> None:
    words = noise(torch.int32, 5 * BLOCK + 3)
    sums = [_block_sums(words, at_once) for at_once in (1, 2, BLOCKS_AT_ONCE)]
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])
