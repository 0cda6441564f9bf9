"""Random numbers as a pure function of their use: Philox 4x32-10, vectorized.

A number is identified by (seed, stream, epoch, item, lane). It does not depend on earlier draws, and there is no
generator state to keep, share or restore.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


class RandomStream(IntEnum):
    """The purpose of a number. Two streams never share a counter."""

    SHARDS = 0
    SAMPLES = 1
    VIEWS = 2
    BUILD = 3
    LOW_SHOT = 4
    HELD_OUT = 5
    SHOWN = 6
    CORRUPTIONS = 7
    MIXING = 8
    TRIAL = 9
    VALIDATION = 10


def philox(
    key: tuple[int, int], counter: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]
) -> NDArray[np.uint32]:
    """Compute four random words for each counter.

    Args:
        key: two 32-bit words.
        counter: four arrays of 32-bit words that broadcast to one shape `[...]`.

    Returns:
        `[..., 4]` uint32, the same on every platform.
    """
    a, b, c, d = np.broadcast_arrays(*(np.asarray(word, np.uint64) for word in counter))
    k0, k1 = key
    for _ in range(_ROUNDS):
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            (right >> _HALF) ^ b ^ np.uint64(k0),
            right & _LOW,
            (left >> _HALF) ^ d ^ np.uint64(k1),
            left & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([a, b, c, d], axis=-1).astype(np.uint32)


def _key(seed: int) -> tuple[int, int]:
    return seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF


def uniforms(
    seed: int, stream: RandomStream, *, epoch: ArrayLike, items: ArrayLike, lane: int, count: int
) -> NDArray[np.float64]:
    """Return uniform numbers in [0, 1) with 32 random bits: `[B, count]` for items `[B]`.

    Args:
        seed: 64-bit seed of the run.
        stream: purpose of the numbers.
        epoch: below 2^32, one for all items or `[B]`.
        items: item of each row (a sample id), below 2^32.
        lane: which of several independent rows of an item (a view), below 2^16.
        count: how many numbers per item.
    """
    rows = np.asarray(items, np.uint64)[:, None]
    blocks = np.arange(-(-count // 4), dtype=np.uint64)[None, :]
    epochs = np.asarray(epoch, np.uint64).reshape(-1, 1)
    words = philox(_key(seed), (rows, epochs, (int(stream) << 16) | lane, blocks))  # [B, blocks, 4]
    return words.reshape(len(rows), -1)[:, :count].astype(np.float64) * 2.0**-32


def sort_keys(seed: int, stream: RandomStream, *, epoch: int, items: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return 64 random bits for each item: `[N]`."""
    words = philox(_key(seed), (items, epoch, int(stream) << 16, 0)).astype(np.uint64)  # [N, 4]
    return (words[:, 0] << _HALF) | words[:, 1]


def permutation(
    seed: int, stream: RandomStream, *, epoch: int, items: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the items `[N]` in random order. They are sorted by 64 random bits each, and ties keep the given order."""
    return items[np.argsort(sort_keys(seed, stream, epoch=epoch, items=items), kind="stable")]
