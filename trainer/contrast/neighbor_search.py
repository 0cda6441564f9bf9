"""Exact search of the rows with the largest dot products, within a memory limit.

Two passes find the k best of N scores without sorting N. Rows are grouped, and the k groups with the largest maxima
contain the k best rows. If the CPU multiplies bf16 several times as fast as float32, the first pass uses bf16 and its
candidates are scored again in float32. An error bound on the rounding tells which keys need the full float32 product
after all. The result is always the same.
"""

import torch
from torch import Tensor

GROUP = 32
"""Number of neighboring rows in a group."""
CANDIDATES = 32
"""Number of rows that the bf16 product proposes for each key."""
ROUNDED_FROM = 2**14
"""Number of rows from which the bf16 product is faster."""
BF16_ROUNDING, FP32_ROUNDING = 2.0**-7, 2.0**-23
"""Twice the maximum relative rounding error, which leaves room for higher orders."""


def topk_indices(rows: Tensor, keys: Tensor, k: int, score_bytes: int) -> Tensor:
    """Return the indices of the k rows [N, D] with the largest dot product with each key [B, D]: [B, k] int64, best
    first.

    Scores use at most `score_bytes`, or the memory of one key's scores if that is more.
    """
    chunk = max(1, score_bytes // (rows.element_size() * len(rows)))
    return torch.cat([_leaders(rows @ part.T, k)[0] for part in keys.split(chunk)])


class Bf16Index:
    """A bf16 copy of rows [N, D] with its rounding errors, which is kept up to date."""

    def __init__(self) -> None:
        self._of: tuple[int, int] | None = None  # address and version of the copied rows

    @staticmethod
    def useful(rows: Tensor) -> bool:
        """Return whether a product with the copy is faster: on CPUs with bf16 instructions, with many float32 rows."""
        return (
            rows.device.type == "cpu"
            and rows.dtype == torch.float32
            and len(rows) >= ROUNDED_FROM
            and torch.cpu._is_avx512_bf16_supported()
        )

    def follow(self, rows: Tensor, indices: Tensor) -> None:
        """Update the copy at `indices`, the only rows that were written since, by a single operation."""
        if self._of == (rows.data_ptr(), rows._version - 1):
            self.rows[indices], self.errors[indices], self.norms[indices] = _rounded(rows[indices])
            self._of = rows.data_ptr(), rows._version

    def topk_indices(self, rows: Tensor, keys: Tensor, k: int, score_bytes: int) -> Tensor:
        """Return the same as the function of this name, by a product with the copy, which is updated first if
        needed."""
        if self._of != (rows.data_ptr(), rows._version):
            self.rows, self.errors, self.norms = _rounded(rows)
            self._of = rows.data_ptr(), rows._version
        candidate_bytes = max(CANDIDATES, k) * rows.shape[1] * rows.element_size()
        chunk = max(1, score_bytes // (self.rows.element_size() * len(rows) + candidate_bytes))
        indices, sure = zip(*(self._places_of(rows, part, k) for part in keys.split(chunk)), strict=True)
        found, unsure = torch.cat(indices), ~torch.cat(sure)
        if unsure.any():
            found[unsure] = topk_indices(rows, keys[unsure], k, score_bytes)
        return found

    def _places_of(self, rows: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return indices [B, k], and for each key [B] whether no row beyond the candidates can be among its best."""
        halves, errors, norms = _rounded(keys)
        candidates, others = _leaders(self.rows @ halves.T, max(CANDIDATES, k))  # [B, C], [B]
        proposed = rows.index_select(0, candidates.flatten()).view(*candidates.shape, -1)  # [B, C, D]
        scores = torch.bmm(proposed, keys[:, :, None]).squeeze(2)  # [B, C]
        best = scores.topk(k, dim=1)
        # |xq - x'q'| <= |x - x'| |q| + |x'| |q - q'| for a key x and a row q, with x' and q' rounded
        most_norm, most_error = self.norms.max(), self.errors.max()
        largest = (norms + errors) * (most_norm + most_error)
        slack = errors * most_norm + (norms + errors) * most_error + FP32_ROUNDING * keys.shape[1] * largest
        others = others.to(keys.dtype)
        sure = others + BF16_ROUNDING * others.abs() + slack < best.values[:, -1]
        return candidates.gather(1, best.indices), sure


def _rounded(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return vectors [B, D] in bf16, the norm of their rounding errors [B], and their own norm [B]."""
    rounded = x.bfloat16()
    return rounded, (x - rounded).norm(dim=1), x.norm(dim=1)


def _leaders(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return indices [B, k] of the k largest scores in each column of scores [N, B], best first, and a bound [B] on all
    others.

    Rows are the first dimension because matrix products and maxima are faster in that order.
    """
    count = len(scores) // GROUP
    if count <= k:
        best = scores.T.topk(min(k + 1, len(scores)), dim=1)
        others = best.values[:, k] if best.values.shape[1] > k else torch.full_like(scores[0], -torch.inf)
        return best.indices[:, :k], others
    maxima = scores[: count * GROUP].view(count, GROUP, -1).amax(1)  # [count, B]
    groups = maxima.T.topk(k + 1, dim=1)
    members = groups.indices[:, :k, None] * GROUP + torch.arange(GROUP, device=scores.device)
    ungrouped = torch.arange(count * GROUP, len(scores), device=scores.device).expand(len(members), -1)
    candidates = torch.cat([members.flatten(1), ungrouped], dim=1)  # [B, C]
    best = scores.T.gather(1, candidates).topk(k + 1, dim=1)
    others = torch.maximum(best.values[:, k], groups.values[:, k])
    return candidates.gather(1, best.indices[:, :k]), others
