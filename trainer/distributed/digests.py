"""Digests of tensors: one 64-bit number that depends on every bit and its position, computed on the tensor's device.

A tensor's raw bits are read as integer words of at most 32 bits. The digest is the sum of the words, each times an odd
number of its position, modulo 2^64. A single changed bit b adds or subtracts 2^b times an odd number, which is never 0,
because b is below 32. The odd numbers look random. Values that have swapped places, or several changed bits, therefore
change the digest as well, except with a probability of about 2^-32.

Integer sums have no rounding, so the order in which a device adds does not matter.
"""

from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor

BLOCK = 2**16
"""Words that share the odd numbers. On a CPU a block fits into the cache."""
BLOCKS_AT_ONCE = 64
"""Blocks that one kernel takes on other devices, which needs 32 MB of memory."""


_WORDS, _BLOCKS, _TENSORS = range(3)
"""Levels of sums. Each has odd numbers of its own. Otherwise word 5 of block 7 and word 7 of block 5 could swap places
unnoticed."""


@torch.no_grad()
def digest(tensor: Tensor) -> Tensor:
    """Return the digest [] int64 of a tensor's content, on its device. The memory format does not matter."""
    words = _words(tensor)
    if len(words) <= BLOCK:
        return _weighted_sum(words, _WORDS)  # most tensors are small, and each kernel costs a launch
    at_once = 1 if words.device.type == "cpu" else BLOCKS_AT_ONCE
    return _weighted_sum(_block_sums(words, at_once), _BLOCKS)


@torch.no_grad()
def digests(tensors: Iterable[Tensor], device: torch.device) -> Tensor:
    """Return the digest of each tensor, [tensors] int64, on one device."""
    found = [digest(tensor).to(device, non_blocking=True) for tensor in tensors]
    return torch.stack(found) if found else torch.empty(0, dtype=torch.int64, device=device)


@torch.no_grad()
def combined(digests: Tensor) -> Tensor:
    """Return one digest [] for the digests of up to `BLOCK` tensors, [tensors]."""
    return _weighted_sum(digests, _TENSORS)


def _words(tensor: Tensor) -> Tensor:
    """Return the raw bits as integers [words], in the logical order of the elements."""
    flat = tensor.detach().contiguous().view(-1)
    return flat.view({1: torch.uint8, 2: torch.int16}.get(flat.element_size(), torch.int32))


def _block_sums(words: Tensor, at_once: int) -> Tensor:
    """Return the weighted sum of each block of words, [blocks]. The last block may be short or empty."""
    whole = len(words) // BLOCK * BLOCK
    blocks = words[:whole].view(-1, BLOCK)
    sums = [(part * _odd_numbers(words.device, _WORDS)).sum(1) for part in blocks.split(at_once)]
    return torch.cat([*sums, _weighted_sum(words[whole:], _WORDS)[None]])


def _weighted_sum(numbers: Tensor, level: int) -> Tensor:
    """Return the sum [] of up to `BLOCK` integers [n], each times the odd number of its position."""
    return (numbers * _odd_numbers(numbers.device, level)[: len(numbers)]).sum()


@cache
def _odd_numbers(device: torch.device, level: int) -> Tensor:
    """Return `BLOCK` odd numbers that look random, the same for every process: [BLOCK] int64."""
    generator = torch.Generator().manual_seed(level)
    bits = torch.randint(-(2**63), 2**63 - 1, (BLOCK,), generator=generator)
    return (bits | 1).to(device)
