import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.contrast.queue import NeighborQueue, QueueSettings
from trainer.distributed.collectives import rank


def make(length: int, size: int = 4, score_bytes: int = 2**20) -> NeighborQueue:
    return NeighborQueue(QueueSettings(size=length, score_bytes=score_bytes), size)


@settings(deadline=None, max_examples=60)
@given(length=st.integers(1, 40), batches=st.lists(st.integers(1, 70), max_size=8))
def test_the_ring_holds_the_last_rows_of_any_batches(length: int, batches: list[int]) -> None:
    queue = make(length)
    start = [(-1, tuple(row.tolist())) for row in queue.rows]
    pushed: list[tuple[int, tuple[float, ...]]] = []
    for size in batches:
        ids = torch.arange(len(pushed), len(pushed) + size)
        keys = torch.randn(size, 4)
        queue.enqueue_async([keys], ids % 3, ids)
        queue.wait()
        pushed += [(int(i), tuple(k.tolist())) for i, k in zip(ids, keys, strict=True)]
    held = [(int(i), tuple(row.tolist())) for i, row in zip(queue.ids, queue.rows, strict=True)]
    # row r of the ring is the last of the pushed numbers that is r modulo the length, else the random start
    for place, row in enumerate(held):
        numbers = range(place, len(pushed), length)
        assert row == (pushed[numbers[-1]] if numbers else start[place])
    known = queue.ids >= 0
    assert torch.equal(queue.labels[known], queue.ids[known] % 3)
    assert int(queue.head) == len(pushed) % length


def test_it_starts_as_unit_rows_without_labels() -> None:
    queue = make(50)
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(50))
    assert (queue.labels == -1).all()
    assert (queue.ids == -1).all()


def test_nearest_is_best_first_and_the_same_in_chunks() -> None:
    torch.manual_seed(0)
    queue, chunked = make(300, 8), make(300, 8, score_bytes=1024)
    chunked.load_state_dict(queue.state_dict())
    keys = [F.normalize(torch.randn(7, 8), dim=1) for _ in range(2)]
    for found, also, key in zip(queue.nearest(keys, 5), chunked.nearest(keys, 5), keys, strict=True):
        scores = key @ queue.rows.T
        expected = scores.argsort(dim=1, descending=True)[:, :5]
        assert torch.equal(found.indices, expected)
        assert torch.equal(found.rows, queue.rows[expected])
        assert torch.equal(also.indices, expected)


def test_vectors_of_their_own_are_searched_and_keys_are_returned() -> None:
    torch.manual_seed(0)
    queue = NeighborQueue(QueueSettings(size=300), 4, search_dim=8)
    compared = F.normalize(torch.randn(7, 8), dim=1)
    (found,) = queue.nearest([compared], 5)
    expected = (compared @ queue.search_rows.T).argsort(dim=1, descending=True)[:, :5]
    assert torch.equal(found.indices, expected)
    assert torch.equal(found.rows, queue.rows[expected])
    keys = F.normalize(torch.randn(2, 7, 4), dim=2)
    queue.enqueue_async(list(keys), torch.arange(7), torch.arange(7), [compared, -compared])
    queue.wait()
    assert torch.equal(queue.rows[:14], keys.flatten(0, 1))
    assert torch.equal(queue.search_rows[:14], torch.cat([compared, -compared]))
    assert torch.equal(queue.nearest([compared], 1)[0].indices[:, 0], torch.arange(7)), "the copy follows"
    assert queue.ids[:15].tolist() == [*range(7), *range(7), -1]


def test_autocast_does_not_change_the_neighbors() -> None:
    torch.manual_seed(0)
    queue = make(500, 16)
    center = F.normalize(torch.randn(16), dim=0)
    queue.rows.copy_(F.normalize(center + 0.1 * torch.randn(500, 16), dim=1))  # cosines that tie in bf16
    keys = [F.normalize(center + 0.1 * torch.randn(8, 16), dim=1)]
    (plain,) = queue.nearest(keys, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (cast,) = queue.nearest(keys, 5)
    assert torch.equal(plain.indices, cast.indices)


def test_agreement_counts_labeled_rows_only() -> None:
    queue = make(6)
    queue.labels.copy_(torch.tensor([0, 1, 2, -1, -1, -1]))
    found = queue.nearest([queue.rows[:5].clone()], 1)[0]
    assert queue.agreement(found, torch.tensor([0, 0, 2, -1, -1])) == pytest.approx(2 / 3)
    assert queue.agreement(found, torch.tensor([0, 0, 2, 1, 1])) == pytest.approx(2 / 5), (
        "no image is there yet"
    )
    queue.ids.copy_(torch.arange(6))
    assert queue.agreement(found, torch.tensor([0, 0, 2, 1, 1])) == pytest.approx(2 / 3), (
        "theirs have no label"
    )
    assert queue.agreement(found, torch.full((5,), -1)).isnan()


def test_a_push_without_start_changes_nothing() -> None:
    queue = make(5)
    before = queue.rows.clone()
    queue.wait()
    assert torch.equal(queue.rows, before)


def push_from_ranks(keys: Tensor) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    queue = make(10)
    ids = torch.arange(3) + 3 * rank()
    queue.enqueue_async([keys[ids]], ids + 100, ids)
    queue.wait()
    return queue.rows, queue.labels


def test_keys_of_all_ranks_enter_in_rank_order(run_ranks) -> None:
    keys = torch.randn(6, 4)
    for rows, labels in run_ranks(push_from_ranks, 2, keys):
        assert torch.equal(rows[:4], keys[:4])
        assert labels.tolist() == [100, 101, 102, 103, 104, 105, -1, -1, -1, -1]


def test_a_key_enters_only_if_what_is_searched_is_finite_too() -> None:
    queue = NeighborQueue(QueueSettings(size=6), 4, search_dim=8)
    before = {name: buffer.clone() for name, buffer in queue.named_buffers()}
    keys, compared = F.normalize(torch.randn(2, 4), dim=1), F.normalize(torch.randn(2, 8), dim=1)
    compared[0, 3] = torch.inf
    queue.enqueue_async([keys], torch.tensor([7, 8]), torch.tensor([1, 2]), [compared])
    queue.wait()
    assert torch.equal(queue.rows[:2], torch.stack([before["rows"][0], keys[1]]))
    assert torch.equal(queue.search_rows[:2], torch.stack([before["search_rows"][0], compared[1]]))
    assert queue.ids.tolist() == [-1, 2, -1, -1, -1, -1]


def test_keys_that_are_not_finite_enter_nothing() -> None:
    queue = make(6)
    before = queue.rows.clone()
    keys = F.normalize(torch.randn(3, 4), dim=1)
    keys[1, 2] = float("nan")
    queue.enqueue_async([keys], torch.tensor([7, 8, 9]), torch.tensor([1, 2, 3]))
    queue.wait()
    assert torch.equal(queue.rows[:3], torch.stack([keys[0], before[1], keys[2]]))
    assert queue.labels[:3].tolist() == [7, -1, 9]
    assert queue.ids[:3].tolist() == [1, -1, 3]
    assert int(queue.head) == 3


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(1, 40),
    kept=st.lists(st.integers(1, 70), max_size=4),
    undone=st.lists(st.integers(1, 70), max_size=4),
    broken=st.booleans(),
    compared=st.booleans(),
    refresh=st.sampled_from([0.0, 0.5]),
    steps=st.integers(1, 3),
)
def test_undone_steps_leave_no_trace(
    length: int, kept: list[int], undone: list[int], broken: bool, compared: bool, refresh: float, steps: int
) -> None:
    queue = NeighborQueue(QueueSettings(size=length), 4, 6 if compared else None, refresh)

    def push(size: int, *, wait: bool = True) -> None:
        keys = torch.randn(size, 4)
        if broken:
            keys[0] = torch.nan
        features = [torch.randn(size, 6)] * 2 if compared else []
        (found,) = queue.nearest([features[0] if compared else keys], 1)
        queue.enqueue_async([keys, keys], torch.arange(size), torch.arange(size), features, found)
        if wait:
            queue.wait()

    for size in kept:
        queue.begin_step(steps)
        push(size)
    before = {name: buffer.clone() for name, buffer in queue.named_buffers()}
    for begun in range(steps):
        queue.begin_step(steps)
        for size in undone[begun::steps]:
            push(size)
    push(3, wait=False)
    for _ in range(steps):
        queue.undo_step()
    queue.wait()  # nothing is pending any more
    assert all(torch.equal(buffer, before[name]) for name, buffer in queue.named_buffers())
    keys = F.normalize(torch.randn(2, queue.searched.shape[1]), dim=1)
    (found,) = queue.nearest([keys], 1)
    best = queue.searched[found.indices[:, 0]]
    assert torch.equal((keys * best).sum(1), (keys[:, None] * queue.searched).sum(2).amax(1))
