import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.contrast import neighbor_search
from trainer.contrast.neighbor_search import Bf16Index, topk_indices

bf16 = pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="bf16 products are used on CPUs with bf16 instructions"
)


def unit(rows: int, size: int = 16, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)), dim=1)


def assert_nearest(rows: Tensor, keys: Tensor, found: Tensor, k: int) -> None:
    """The rows found score as the k best of a whole sort, in order; those that tie in float32 may swap."""
    keys, rows = keys.double(), rows.double()
    scores = (keys[:, None] * rows[found]).sum(2)
    torch.testing.assert_close(scores, (keys @ rows.T).topk(k, dim=1).values, rtol=0, atol=3e-7)
    assert all(len(set(indices)) == k for indices in found.tolist())


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 700), keys=st.integers(1, 20), k=st.integers(1, 30), score_bytes=st.integers(1, 20000)
)
def test_the_nearest_are_those_of_a_whole_sort(rows: int, keys: int, k: int, score_bytes: int) -> None:
    k = min(k, rows)
    queue, asked = unit(rows), unit(keys, seed=1)
    assert_nearest(queue, asked, topk_indices(queue, asked, k, score_bytes), k)


@settings(deadline=None, max_examples=20)
@given(rows=st.integers(64, 3000), k=st.integers(1, 40), center=st.sampled_from([0.0, 0.5, 5.0]))
def test_a_rounded_product_finds_the_same_rows(rows: int, k: int, center: float) -> None:
    # the larger the common part, the less bf16 can tell the rows apart, up to all of them tying
    queue = F.normalize(unit(rows) + center, dim=1)
    asked = F.normalize(unit(20, seed=1) + center, dim=1)
    assert_nearest(queue, asked, Bf16Index().topk_indices(queue, asked, k, 2**20), k)


def test_keys_that_rounding_leaves_in_doubt_are_told_from_those_that_it_does_not() -> None:
    queue = unit(4000, 64)
    rounded = Bf16Index()
    rounded.topk_indices(queue, queue[:1], 5, 2**20)
    _, sure = rounded._places_of(queue, unit(50, 64, seed=1), 5)
    assert sure.all()
    alike = F.normalize(queue[:1] + 1e-3 * queue, dim=1)
    rounded.topk_indices(alike, alike[:1], 5, 2**20)
    _, sure = rounded._places_of(alike, alike[:50], 5)
    assert not sure.any()


def test_the_bound_on_rounding_holds_for_every_row() -> None:
    queue, keys = unit(2000), unit(30, seed=1)
    halves, errors, norms = neighbor_search._rounded(keys)
    copy, row_errors, row_norms = neighbor_search._rounded(queue)
    apart = (keys.double() @ queue.double().T - halves.double() @ copy.double().T).abs()
    most = errors[:, None] * row_norms + (norms + errors)[:, None] * row_errors
    assert (apart <= most.double() + 1e-6).all()
    assert apart.max() > 1e-4  # and is not idle


def test_the_copy_follows_what_is_written_and_notices_what_it_was_not_told() -> None:
    queue, keys = unit(600), unit(4, seed=1)
    rounded = Bf16Index()
    rounded.topk_indices(queue, keys, 1, 2**20)
    indices = torch.tensor([3, 5])
    queue[indices] = keys[:2]
    rounded.follow(queue, indices)
    assert torch.equal(rounded.rows, queue.bfloat16())
    assert rounded.topk_indices(queue, keys[:2], 1, 2**20).flatten().tolist() == [3, 5]
    queue[7] = keys[2]
    assert rounded.topk_indices(queue, keys[2:3], 1, 2**20).item() == 7
    queue[8] = keys[3]
    queue[9] = -keys[3]
    rounded.follow(queue, torch.tensor([9]))  # it was not told of the first
    assert rounded.topk_indices(queue, keys[3:], 1, 2**20).item() == 8


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and not any(leaf is a for a in args):
                self.bytes = max(self.bytes, leaf.numel() * leaf.element_size())
        return out


@pytest.mark.parametrize("score_bytes", [2**18, 2**20, 2**30])
def test_memory_is_bounded_by_score_bytes(score_bytes: int) -> None:
    queue, keys = unit(2**13), unit(256, seed=1)
    with Largest() as plain:
        expected = topk_indices(queue, keys, 5, score_bytes)
    whole = 4 * len(queue) * len(keys)  # 8 MB
    assert plain.bytes <= score_bytes
    assert plain.bytes == whole if score_bytes > whole else plain.bytes > score_bytes / 2
    rounded = Bf16Index()
    rounded.topk_indices(queue, keys[:1], 5, score_bytes)
    with Largest() as bf16_product:
        found = rounded.topk_indices(queue, keys, 5, score_bytes)
    assert bf16_product.bytes <= score_bytes
    assert torch.equal(found, expected)


@bf16
def test_a_long_queue_uses_the_rounded_product_and_a_short_or_float64_one_does_not() -> None:
    assert Bf16Index.useful(torch.zeros(2**14, 1))
    assert not Bf16Index.useful(torch.zeros(2**14 - 1, 1))
    assert not Bf16Index.useful(torch.zeros(2**14, 1, dtype=torch.float64))
