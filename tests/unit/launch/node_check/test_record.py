from pathlib import Path
from typing import Any

from launch.node_check.record import NODE_CHECK, NodeCheck, node_checks
from trainer.runs.records import read_ledger
from trainer.runs.run_folder import RunFolder

FOUND: dict[str, Any] = {
    "attempt": 1,
    "count": 3,
    "seconds": 6.28,
    "stopped": False,
    "bad": {"node2": ["JPEG decode: slow", "memory: slow"], "node9": ["check: no answer within 30 s"]},
    "swapped": {"node2": "node3"},
    "links": [["node1", "node4"]],
    "common": ["read of the set: there is no shard here"],
}


def test_a_check_is_read_as_it_was_written_and_told_in_words(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.note(NODE_CHECK, **FOUND)
    (check,) = node_checks(read_ledger(run.ledger))
    assert check == NodeCheck(nodes=3, **{key: value for key, value in FOUND.items() if key != "count"})
    assert check.lines() == [
        "the check of 3 nodes took 6.3 s",
        "node2 is bad, and node3 has taken its place: JPEG decode: slow; memory: slow",
        "node9 is bad: check: no answer within 30 s",
        "node1 and node4 fail or are slow together",
        "all nodes fail: read of the set: there is no shard here",
    ]


def test_a_check_without_a_fault_and_one_that_a_signal_ended_are_told(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    clean = FOUND | {"bad": {}, "swapped": {}, "links": [], "common": []}
    run.note(NODE_CHECK, **clean)
    run.note(NODE_CHECK, **clean | {"stopped": True, "attempt": 2})
    whole, stopped = node_checks(read_ledger(run.ledger))
    assert whole.lines() == ["the check of 3 nodes took 6.3 s and found no fault"]
    assert stopped.lines() == ["a signal ended the check of 3 nodes after 6.3 s"]


def test_damaged_checks_are_left_out_and_no_text_steers_a_terminal(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for damage in ({"bad": {"node2": "slow"}}, {"bad": ["node2"]}, {"links": [[1]]}, {"swapped": {"a": 1}}):
        run.note(NODE_CHECK, **FOUND | damage)
    run.note(NODE_CHECK, **{key: value for key, value in FOUND.items() if key != "common"})
    assert node_checks(read_ledger(run.ledger)) == []
    run.note(NODE_CHECK, **FOUND | {"bad": {"node2": ["\x1b[2Jgone"]}})
    (check,) = node_checks(read_ledger(run.ledger))
    assert all(line.isprintable() for line in check.lines())
