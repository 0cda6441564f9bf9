"""Rows of the queue that move toward the keys that hit them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.contrast.queue import NeighborQueue, QueueSettings
from trainer.contrast.queue_refresh import refreshed
from trainer.distributed.collectives import rank, world_size

HITS = torch.tensor([3, 0, 3, 7, 0, 3])
ALL = torch.ones(6, dtype=torch.bool)


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1).to(dtype)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_each_row_moves_toward_the_mean_of_its_keys(fraction: float) -> None:
    rows, keys = unit(10, 5), unit(6, 5, seed=1)
    found = refreshed(rows, keys, HITS, ALL, fraction)
    for place, of in {0: [1, 4], 3: [0, 2, 5], 7: [3]}.items():
        mixed = (1 - fraction) * rows[place] + fraction * sum(keys[i] for i in of) / len(of)
        for i in of:
            torch.testing.assert_close(found[i], mixed / mixed.norm(), rtol=0, atol=1e-11)
            assert torch.equal(found[i], found[of[0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_order_of_the_keys_does_not_matter_bit_for_bit(dtype: torch.dtype) -> None:
    rows, keys = unit(4, 64, dtype=dtype), unit(500, 64, seed=1, dtype=dtype)
    generator = torch.Generator().manual_seed(2)
    hits, order = torch.randint(4, (500,), generator=generator), torch.randperm(500, generator=generator)
    everyone = torch.ones(500, dtype=torch.bool)
    found = refreshed(rows, keys, hits, everyone, 0.3)
    assert torch.equal(refreshed(rows, keys[order], hits[order], everyone, 0.3), found[order])


def test_keys_that_are_not_usable_move_nothing() -> None:
    rows, keys = unit(10, 5), unit(6, 5, seed=1)
    keys[0], keys[3, 2] = torch.inf, torch.nan
    found = refreshed(rows, keys, HITS, keys.isfinite().all(1), 0.5)
    wanted = rows[3] + (keys[2] + keys[5]) / 2
    torch.testing.assert_close(found[0], wanted / wanted.norm(), rtol=0, atol=1e-11)
    assert torch.equal(found[3], rows[7])


def make(size: int, search_dim: int | None = None) -> NeighborQueue:
    queue = NeighborQueue(QueueSettings(size=size), 4, search_dim, refresh=0.5)
    queue.load_state_dict(
        queue.state_dict()
        | {n: unit(*t.shape, seed=3, dtype=t.dtype) for n, t in queue.named_buffers() if t.dim() == 2}
    )
    return queue


def push(queue: NeighborQueue, compared: list[Tensor], part: slice = slice(None)) -> None:
    """Push the keys of two views, of which only the first one's refresh rows."""
    keys, ids = [unit(6, 4, seed=1)[part].float(), unit(6, 4, seed=2)[part].float()], torch.arange(6)[part]
    compared = [vectors[part] for vectors in compared]
    (found,) = queue.nearest((compared or keys)[:1], 2)
    queue.enqueue_async(keys, ids, ids, compared, found)
    queue.wait()


@pytest.mark.parametrize("search_dim", [None, 5])
def test_the_first_view_refreshes_and_new_keys_win(search_dim: int | None) -> None:
    queue, before = make(40, search_dim), make(40, search_dim)
    compared = [] if search_dim is None else [unit(6, 5, seed=4).float(), unit(6, 5, seed=5).float()]
    first = [unit(6, 4, seed=1).float(), *compared[:1]]
    hits = (first[-1] @ before.searched.T).argmax(1)
    push(queue, compared)
    untouched = [row for row in range(12, 40) if row not in hits]
    assert 0 < len(untouched) < 28  # some hit rows are not overwritten
    for rows, old, keys in zip(queue._vectors(), before._vectors(), first, strict=True):
        assert torch.equal(rows[:6], keys)
        assert torch.equal(rows[untouched], old[untouched])
        for row in {*hits.tolist()} - {*range(12)}:
            wanted = F.normalize(old[row] + keys[hits == row].mean(0), dim=0)
            torch.testing.assert_close(rows[row], wanted)
    assert queue.ids[12:].eq(-1).all()
    (found,) = queue.nearest([first[-1]], 3)
    assert torch.equal(found.indices, (first[-1] @ queue.searched.T).topk(3).indices)


def test_a_large_queue_is_searched_as_it_is_now() -> None:
    """CPUs with bf16 instructions search a copy, which must follow."""
    queue, keys = make(2**14), unit(6, 4, seed=1).float()
    for _ in range(2):
        push(queue, [])
    (found,) = queue.nearest([keys], 5)
    torch.testing.assert_close(
        (found.rows * keys[:, None]).sum(2), (keys @ queue.rows.T).topk(5).values, rtol=0, atol=1e-6
    )
    if hasattr(queue._rounded, "rows"):
        assert torch.equal(queue._rounded.rows, queue.rows.bfloat16())


def pushed() -> list[Tensor]:
    queue = make(40, 5)
    compared = [unit(6, 5, seed=4).float(), unit(6, 5, seed=5).float()]
    size = 6 // world_size()
    push(queue, compared, slice(rank() * size, (rank() + 1) * size))
    return [buffer.clone() for buffer in queue.buffers()]


def test_all_ranks_have_the_rows_of_one_process_bit_for_bit(run_ranks) -> None:
    wanted = pushed()
    for found in run_ranks(pushed, 2):
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
