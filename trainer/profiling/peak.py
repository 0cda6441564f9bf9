"""The peak speed for the operations of a step, in the types in which they are really multiplied."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.profiling.dry_run import kernels
from trainer.profiling.dry_run.cards import CARDS, Card

DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "tf32": torch.float32,
    "fp32": torch.float32,
    "fp64": torch.float64,
}
"""Types of multiplication by name, with the dtype of the tensors. TF32 multiplies float32 with 10 bits of mantissa."""


class FlopsByType(TorchDispatchMode):
    """Counts the floating-point operations of a block, by the type in which they are multiplied.

    On GPUs torch multiplies float32 in TF32 where its settings allow that, by default in convolutions only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        """Floating-point operations by name of the type."""

    @property
    def total(self) -> int:
        """All floating-point operations."""
        return self.flops.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if flops := kernels.flops(func, args, kwargs or {}, out):
            tensors = [t for t in tree_leaves(args) if isinstance(t, Tensor)]
            self.flops[_type(func, tensors)] += flops
        return out


def _type(func: Any, tensors: list[Tensor]) -> str:
    if tensors[-1].dtype == torch.float16:
        return "fp16"
    found = kernels.precision(func, tensors)
    return "fp32" if found == "tf32" and tensors[-1].device.type != "cuda" else found


def combined_peak(flops: Mapping[str, float], peak_of: Callable[[str], float]) -> float:
    """Return the speed at which operations of several types finish, if each runs at the peak of its type.

    Args:
        flops: floating-point operations by type, at least one.
        peak_of: returns the operations per second of a type.
    """
    return sum(flops.values()) / sum(count / peak_of(name) for name, count in flops.items() if count)


_OTHER_SPEEDS = {"PCIE", "NVL", "MIG", "LAPTOP", "D"}
"""Words in the names of cards that share a model's name, but not its speeds."""


def find_card(device: str) -> Card | None:
    """Return the data sheet of a GPU by the name that torch gives it. None: it is not among `CARDS`.

    The speeds of the card count, not its memory: an A100 of 40 GB is as fast as one of 80 GB.
    """
    words = device.upper().replace("-", " ").split()
    if _OTHER_SPEEDS & set(words):
        return None
    names = {*words, *(a + b for a, b in pairwise(words))}  # "RTX 4090" is two words
    return next((card for name, card in CARDS.items() if name.upper() in names), None)


def card_speed(card: Card, name: str) -> float:
    """Return the operations per second of a type on a card. No data sheet here gives fp16 another speed than bf16."""
    return card.flops["bf16" if name == "fp16" else name]


@contextmanager
def products_in(name: str) -> Iterator[torch.dtype]:
    """Let matrix products multiply in a type within the block. Yields the dtype of their tensors."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    try:
        yield DTYPES[name]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
