"""Which ranks count as slow. States are made up."""

from dataclasses import replace

from test_hang_detection import RUNNING

from launch.local.stragglers import BLOCK_STEPS, BLOCKS, Stragglers

NODES = {0: "node1", 1: "node2", 2: "node3"}
STEPS = BLOCK_STEPS * BLOCKS


def train(stragglers: Stragglers, milliseconds, steps: int = STEPS + 1, first: int = 0) -> list:
    """The ranks that are named while all make steps. `milliseconds` gives those of a rank in a step."""
    ranks = range(len(stragglers._nodes))
    spent, named = dict.fromkeys(ranks, 0.0), []
    for step in range(first + 1, first + steps + 1):
        for rank in ranks:
            spent[rank] += milliseconds(rank, step) / 1e3
        states = {r: replace(RUNNING, step=step, compute_seconds=spent[r]) for r in ranks}
        named += stragglers.see(states)
    return named


def test_a_rank_that_is_slow_for_a_hundred_steps_is_named_once() -> None:
    stragglers = Stragglers(NODES)
    named = train(stragglers, lambda rank, step: 120 if rank == 1 else 100, 3 * STEPS)
    assert [(one.rank, one.node, one.milliseconds, one.slower) for one in named] == [(1, "node2", 120, 0.2)]
    assert [one.slower for one in stragglers.times()] == [0, 0.2, 0]


def test_ninety_slow_steps_name_nobody() -> None:
    assert not train(Stragglers(NODES), lambda rank, step: 120 if rank == 1 and step <= 81 else 100)


def test_a_rank_that_is_a_little_slow_is_not_named() -> None:
    assert not train(Stragglers(NODES), lambda rank, step: 114 if rank == 1 else 100, 3 * STEPS)


def test_a_pause_names_nobody() -> None:
    assert not train(Stragglers(NODES), lambda rank, step: 10_000 if rank == 1 and step == 50 else 100)


def test_of_two_ranks_the_slower_one_is_named() -> None:
    named = train(Stragglers({0: "node1", 1: "node2"}), lambda rank, step: 100 + 30 * rank)
    assert [(one.rank, one.slower) for one in named] == [(1, 0.3)]


def test_a_single_rank_has_nothing_to_be_compared_with() -> None:
    stragglers = Stragglers({0: "node1"})
    assert not train(stragglers, lambda rank, step: 100)
    assert not stragglers.times()


def test_a_rollback_begins_again() -> None:
    stragglers = Stragglers(NODES)
    train(stragglers, lambda rank, step: 100, 95)
    states = {r: replace(RUNNING, step=40, compute_seconds=50.0 + r) for r in NODES}
    assert not stragglers.see(states)
    later = {r: replace(RUNNING, step=50, compute_seconds=51.0 + r) for r in NODES}
    assert not stragglers.see(later)
    assert {one.slower for one in stragglers.times()} == {0.0}
