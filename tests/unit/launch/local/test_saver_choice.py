from collections.abc import Mapping

from hypothesis import assume, given
from hypothesis import strategies as st

from launch.local.saver_choice import choose_saver, choose_tasks
from trainer.distributed.neighbor_exchange import neighbor_distance
from trainer.runs.supervisor import HeldCopy, Holdings, Task


@given(st.dictionaries(st.integers(0, 20), st.none() | st.integers(0, 5)))
def test_the_saver_holds_the_newest_step_that_any_rank_holds(reports: dict[int, int | None]) -> None:
    saver = choose_saver(reports)
    held = {rank: step for rank, step in reports.items() if step is not None}
    if saver is None:
        assert not held
    else:
        assert held[saver] == max(held.values())
        assert saver == min(rank for rank, step in held.items() if step == held[saver])


def keep(world: int, local: int, step: int, arrived: Mapping[int, bool]) -> dict[int, HeldCopy]:
    """What each rank keeps of a step: its own shard, that of its ward if it has come, and perhaps the model."""
    distance = neighbor_distance(world, local)
    return {
        rank: HeldCopy(
            step, (rank, (rank - distance) % world) if arrived[rank] else (rank,), rank % local < 2
        )
        for rank in range(world)
    }


@st.composite
def losses(draw: st.DrawFn) -> tuple[int, int, set[int], dict[int, Holdings]]:
    """Ranks on some nodes that are lost while a generation of copies is on its way."""
    local, nodes = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    world = local * nodes
    assume(world > 1)
    some = st.dictionaries(st.integers(0, world - 1), st.booleans())
    flags = draw(some)
    older = keep(world, local, 10, dict.fromkeys(range(world), True))
    newer = keep(world, local, 20, {rank: flags.get(rank, True) for rank in range(world)})
    has_begun = draw(some)  # some ranks may not have begun with the newer one
    lost = draw(st.sets(st.integers(0, world - 1)))
    left = {
        rank: Holdings(None, (newer[rank], older[rank]) if has_begun.get(rank, True) else (older[rank],))
        for rank in range(world)
        if rank not in lost
    }
    return world, local, lost, left


@given(losses())
def test_the_step_is_the_newest_one_of_which_every_shard_and_the_model_are_left(
    case: tuple[int, int, set[int], dict[int, Holdings]],
) -> None:
    world, _, _, left = case
    complete = []
    for step in (10, 20):
        held = [copy for one in left.values() for copy in one.copies if copy.step == step]
        shards = {shard for copy in held for shard in copy.shards}
        if shards == set(range(world)) and any(copy.has_model for copy in held):
            complete.append(step)
    tasks = choose_tasks(left, world)
    assert {task.copy for task in tasks.values()} == ({max(complete)} if complete else set())
    if not complete:
        return
    ((saver, _),) = ((rank, task) for rank, task in tasks.items() if task.saves)
    own = {rank: {c.step: c for c in left[rank].copies}[max(complete)] for rank in tasks}
    assert own[saver].has_model
    handed = [shard for rank, task in tasks.items() if rank != saver for shard in task.shards]
    assert sorted([*handed, *own[saver].shards]) == list(range(world))  # each shard comes once
    for rank, task in tasks.items():
        assert set(task.shards) <= set(own[rank].shards)


@given(losses())
def test_a_step_of_which_all_shards_are_left_has_its_model_left_too(
    case: tuple[int, int, set[int], dict[int, Holdings]],
) -> None:
    world, _, _, left = case
    held = [one.copies[-1] for one in left.values()]  # the older generation, which is complete on every rank
    if {shard for copy in held for shard in copy.shards} == set(range(world)):
        assert any(copy.has_model for copy in held)


@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_one_lost_rank_or_node_never_loses_a_complete_step(
    local: int, nodes: int, data: st.DataObject
) -> None:
    world = local * nodes
    held = keep(world, local, 10, dict.fromkeys(range(world), True))
    node = data.draw(st.integers(0, nodes - 1))
    ranks = {data.draw(st.integers(0, world - 1))}
    for lost in [ranks, *([set(range(node * local, (node + 1) * local))] if nodes > 1 else [])]:
        left = {rank: Holdings(None, (copy,)) for rank, copy in held.items() if rank not in lost}
        assert bool(choose_tasks(left, world)) is bool(left)


def test_a_whole_state_counts_before_copies_of_the_same_step() -> None:
    left = {0: Holdings(None, (HeldCopy(7, (0, 1), True),)), 1: Holdings(7)}
    assert choose_tasks(left, 2) == {1: Task(saves=True)}
    left[1] = Holdings(6)
    assert choose_tasks(left, 2) == {0: Task(saves=True, copy=7)}
    assert choose_tasks({0: Holdings(), 1: Holdings()}, 2) == {}


def test_a_neighbor_is_on_another_node_if_there_is_one() -> None:
    assert neighbor_distance(8, 4) == 4
    assert neighbor_distance(3, 1) == 1
    assert neighbor_distance(4, 4) == 1
