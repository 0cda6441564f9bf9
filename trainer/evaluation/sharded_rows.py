"""Labeled samples on which a linear classifier is fitted or tested. Every rank keeps the features of its own part."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from data_pipelines.errors import UserError
from trainer.distributed.collectives import all_reduce_sum, gather, rank
from trainer.evaluation.features import gather_ragged

CHUNK = 8192
"""Samples whose standardized features and logits exist at once."""
BLOCK = 2**26
"""Features that may exist twice: 268 MB in float32. More of them are standardized again in every pass."""


@dataclass(frozen=True)
class ShardedRows:
    """Chosen samples of this rank. Their features are read where they are, so a choice of samples copies nothing.

    The memory besides the features is that of one chunk and of one block.
    """

    features: Tensor
    """`[n, F]` of all samples of this rank. Types other than float64 are computed in float32."""
    labels: Tensor
    """`[n]` int64 on the device of the features."""
    chosen: Tensor
    """`[m]` int64, the rows of the chosen samples in increasing order. None of them has label -1."""
    total: int
    """Number of chosen samples of all ranks."""
    mean_and_std: tuple[Tensor, Tensor] | None = None
    """`[F]` each, by which the features are standardized. None: they are used as they are."""

    @classmethod
    def choose(cls, features: Tensor, labels: Tensor, mask: Tensor) -> "ShardedRows":
        """Choose the samples of a mask `[n]` bool. Every rank calls."""
        chosen = mask.nonzero()[:, 0]
        total = int(all_reduce_sum(torch.tensor(len(chosen))))
        return cls(features, labels, chosen, total)

    @property
    def dtype(self) -> torch.dtype:
        """Type in which the features are computed."""
        return torch.float64 if self.features.dtype == torch.float64 else torch.float32

    def standardized(self, mean_and_std: tuple[Tensor, Tensor]) -> "ShardedRows":
        """Return the same samples, standardized with this mean and standard deviation, `[F]` each."""
        if len(self.chosen) * self.features.shape[1] > BLOCK:
            return ShardedRows(self.features, self.labels, self.chosen, self.total, mean_and_std)
        mean, std = mean_and_std
        copy = (self._read(slice(None), slice(None)) - mean).div_(std)
        every = torch.arange(len(copy), device=copy.device)
        return ShardedRows(copy, self.labels[self.chosen], every, self.total)

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this rank's features `[c, F]` and labels `[c]`, at most `CHUNK` of them at a time."""
        for start in range(0, len(self.chosen), CHUNK):
            features = self._read(slice(start, start + CHUNK), slice(None))
            if self.mean_and_std is not None:
                mean, std = self.mean_and_std
                features = (features - mean).div_(std)
            yield features, self.labels[self.chosen[start : start + CHUNK]]

    def compute_mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation `[F]` over the samples of all ranks. Constant features keep their scale.

        Every rank calls. The ranks' own statistics are combined in the order of the ranks (Chan, Golub and LeVeque
        1979), so one rank's statistics stay as they are.
        """
        width = max(1, BLOCK // max(1, len(self.chosen)))
        own = self.features.new_zeros(2, self.features.shape[1], dtype=self.dtype)  # standard deviation, mean
        if len(self.chosen):
            for start in range(0, self.features.shape[1], width):
                columns = slice(start, start + width)
                own[0, columns], own[1, columns] = torch.std_mean(
                    self._read(slice(None), columns), dim=0, correction=0
                )
        std, mean = _combine(gather(torch.tensor([len(self.chosen)])).tolist(), gather(own[None]))
        return mean, torch.where(std > 1e-6 * mean.abs().clamp(min=1e-6), std, torch.ones_like(std))

    def _read(self, rows: slice, columns: slice) -> Tensor:
        """Return features `[r, c]` of these of the chosen samples. It copies nothing if all samples are chosen."""
        if len(self.chosen) == len(self.features):
            found = self.features[rows, columns]
        else:
            found = self.features[:, columns][self.chosen[rows]]
        return found.to(self.dtype)


def held_out_mask(
    labels: Tensor, known: Tensor, ids: Tensor | None, num_classes: int, share: float, seed: int
) -> Tensor:
    """Return a mask `[n]` of this rank's held-out samples, drawn from the labeled samples of all ranks in their order.

    Args:
        labels: `[n]`.
        known: `[n]` bool, whether a sample has a label.
        ids: `[n]` places of the samples in the order. None: the samples of the ranks follow each other.
        num_classes: number of classes.
        share: fraction of each class.
        seed: seed of the draw.
    """
    everywhere = gather_ragged(labels[known])  # [N]
    order = None if ids is None else gather_ragged(ids.to(labels.device)[known]).argsort()
    drawn = _stratified(everywhere if order is None else everywhere[order], num_classes, share, seed)
    if order is not None:
        drawn = torch.empty_like(drawn).index_copy_(0, order, drawn)
    counts = gather(known.sum()[None].cpu()).tolist()
    own = drawn.split(counts)[rank()]
    return torch.zeros_like(known).masked_scatter_(known, own)


def _combine(counts: list[int], parts: Tensor) -> tuple[Tensor, Tensor]:
    """Return standard deviation and mean `[F]` of the union of parts `[world, 2, F]` with these numbers of samples."""
    filled = [(count, *part) for count, part in zip(counts, parts, strict=True) if count]
    count, std, mean = filled[0]
    for other, other_std, other_mean in filled[1:]:
        both = count + other
        apart = other_mean - mean
        within = (count * std.square() + other * other_std.square()) / both
        std = (within + apart.square() * (count / both) * (other / both)).sqrt()
        mean, count = mean + apart * (other / both), both
    return std, mean


def _stratified(labels: Tensor, num_classes: int, share: float, seed: int) -> Tensor:
    """Return a mask `[N]` of the held-out samples: a fraction of each class, at least one and never the last one."""
    counts = torch.bincount(labels, minlength=num_classes)
    if int((counts > 0).sum()) < 2 or int(counts.max()) < 2:
        raise UserError(
            "a linear probe needs labeled training samples of two classes, and at least two of one class",
            where="evaluation",
            fix="evaluate on a training set with more classes and samples",
        )
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator).to(labels.device)
    shuffled = shuffled[labels[shuffled].argsort(stable=True)]  # by class, in random order inside each
    first_of_class = counts.cumsum(0) - counts
    place = torch.arange(len(labels), device=labels.device) - first_of_class[labels[shuffled]]
    wanted = torch.minimum((share * counts).round().clamp(min=1).long(), counts - 1)
    held_out = torch.zeros_like(labels, dtype=torch.bool)
    held_out[shuffled] = place < wanted[labels[shuffled]]
    return held_out
