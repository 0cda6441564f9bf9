"""Comparison of the state that all ranks must hold alike, bit for bit, by digests.

Every rank computes the same updates from the same averaged gradients and gathered keys, so its copies of the state are
equal to those of all others. If one is not, a device, its memory or a link has corrupted data silently. On GPUs of
different models the last bits of norms may differ as well.

What is compared depends on the layout:

- Weights, the momentum (EMA) encoder and the queue are compared at every ZeRO stage. At stages 1 and 2 a wrong weight
  lasts only until the next update, which sends the weights of each shard's owner to all ranks.
- The optimizer's state is compared at stage 0. At stages 1 and 2 each part of it is on one rank, so there is nothing to
  compare it with.
- Buffers are compared. Those with the running statistics of batch norms are equal too, because they are averaged
  where a batch norm does not span all ranks.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from trainer.distributed.collectives import start_gather, world_size
from trainer.distributed.digests import combined, digests
from trainer.distributed.host_reading import HostReading
from trainer.methods import Method


class StateKind(StrEnum):
    """A kind of state that is compared. Ledgers on disk hold these words."""

    WEIGHTS = "weights"
    OPTIMIZER = "optimizer state"
    EMA = "momentum (EMA) encoder"
    BUFFERS = "batch statistics and other buffers"
    QUEUE = "neighbor queue"


Replicas = Mapping[StateKind, Mapping[str, Tensor]]
"""The tensors of each kind by name."""


@dataclass(frozen=True)
class Difference:
    """What differs between the ranks, the same on every rank."""

    ranks: list[int]
    """The ranks that differ from the majority. Without a majority: all of them."""
    has_majority: bool
    """Whether more than half of the ranks agree on every kind of state."""
    tensors: dict[StateKind, list[str]]
    """The names of the differing tensors of each kind."""


def replicas_of(method: Method, optimizer_state: Mapping[str, Tensor]) -> Replicas:
    """Return the tensors that every rank must hold alike.

    Args:
        method: the method, whose buffers that are not saved count too.
        optimizer_state: the optimizer's tensors that are on every rank.
    """
    found: dict[StateKind, dict[str, Tensor]] = {kind: {} for kind in StateKind}
    found[StateKind.OPTIMIZER] = dict(optimizer_state)
    for name, parameter in method.named_parameters():
        found[StateKind.EMA if name.startswith("momentum.") else StateKind.WEIGHTS][name] = parameter
    for name, buffer in method.named_buffers():
        found[StateKind.QUEUE if name.startswith("queue.") else StateKind.BUFFERS][name] = buffer
    return found


class Comparison:
    """A comparison that has begun. Every rank makes one at the same place in the order of its collectives.

    The digests are computed and gathered on the device, so the host waits only in `difference`. One number of each kind
    is sent. If these differ, `difference` gathers the digests of all tensors of that kind, to name those that do.

    Args:
        replicas: what `replicas_of` returned.
        kinds: the kinds to compare.
        device: the device of the method.
    """

    def __init__(self, replicas: Replicas, kinds: Collection[StateKind], device: torch.device) -> None:
        self._kinds = [kind for kind in StateKind if kind in kinds]
        self.is_complete = len(self._kinds) == len(StateKind)
        """Whether every kind of state is compared."""
        self._names = {kind: list(replicas[kind]) for kind in self._kinds}
        self._digests = {kind: digests(replicas[kind].values(), device) for kind in self._kinds}  # [tensors]
        own = torch.stack([combined(numbers) for numbers in self._digests.values()])  # [kinds]
        self._gathered = HostReading(start_gather(own[None]).result())  # [ranks, kinds]

    def difference(self) -> Difference | None:
        """Return what differs, or None if all ranks are equal. Waits for the device. Every rank calls."""
        by_kind = dict(zip(self._kinds, zip(*self._gathered.values(), strict=True), strict=True))
        differing = [kind for kind, numbers in by_kind.items() if len(set(numbers)) > 1]
        if not differing:
            return None
        odd = [_minority(by_kind[kind]) for kind in differing]
        ranks = sorted({rank for ranks in odd if ranks is not None for rank in ranks})
        has_majority = None not in odd
        return Difference(
            ranks if has_majority else list(range(world_size())),
            has_majority,
            {kind: self._differing_tensors(kind) for kind in differing},
        )

    def _differing_tensors(self, kind: StateKind) -> list[str]:
        everywhere = start_gather(self._digests[kind][None]).result()  # [ranks, tensors]
        differs = (everywhere != everywhere[0]).any(0).tolist()  # [tensors]
        return [name for name, one in zip(self._names[kind], differs, strict=True) if one]


def _minority(numbers: Sequence[int]) -> list[int] | None:
    """Return the ranks whose number is not that of more than half of the ranks. None: there is no such number."""
    number, votes = Counter(numbers).most_common(1)[0]
    return [rank for rank, own in enumerate(numbers) if own != number] if 2 * votes > len(numbers) else None
