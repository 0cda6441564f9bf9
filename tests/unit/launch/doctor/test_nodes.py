"""What `all4one doctor --nodes` concludes from the files of its nodes."""

import json
from pathlib import Path

from launch.doctor.node_job import round_rates
from launch.doctor.nodes import evaluate
from launch.node_check.rates import NodeRates, Rate

NODES = [f"node{number}" for number in range(1, 9)]


def write_link(folder: Path, turn: int, pair: tuple[str, str], rate: float | None) -> None:
    for node in pair:
        found = {"rate": rate} if rate is not None else {"failure": "connection refused"}
        path = folder / f"link_{turn}_{NODES.index(node)}.json"
        path.write_text(json.dumps({"pair": pair, **found}))


def write_rates(folder: Path, node: str, matrix: float) -> None:
    values = NodeRates(node, {Rate.MATRIX: matrix}).as_json()
    (folder / f"rates_{NODES.index(node)}.json").write_text(json.dumps(values))


def test_a_slow_node_a_bad_link_and_a_silent_node_are_told_apart(tmp_path: Path) -> None:
    for node in NODES[:-1]:
        write_rates(tmp_path, node, 50e9 if node == "node3" else 100e9)
    for pair in zip(NODES[::2], NODES[1::2], strict=True):
        write_link(tmp_path, 1, pair, None if "node5" in pair or "node8" in pair else 1e9)
    second = [("node5", "node1"), ("node7", "node2"), ("node6", "node3"), ("node8", "node4")]
    (tmp_path / "second_round.json").write_text(json.dumps(second))
    for pair in second:
        write_link(tmp_path, 2, pair, None if "node8" in pair else 1e9)
    found = evaluate(tmp_path, NODES, 0.2)
    assert set(found.suspicions) == {"node3", "node8"}
    assert found.suspicions["node3"] == ["matrix products: 50 GFLOP/s, 50 % below the median of 100 GFLOP/s"]
    assert len(found.suspicions["node8"]) == 2
    assert list(found.verdict.links) == [("node5", "node6")]
    assert json.loads(json.dumps(found.as_json()))["bad_links"] == [["node5", "node6"]]


def test_a_pair_of_which_one_node_wrote_nothing_has_failed(tmp_path: Path) -> None:
    write_link(tmp_path, 1, ("node1", "node2"), 1e9)
    (tmp_path / "link_1_1.json").unlink()
    assert round_rates(tmp_path, 1, [("node1", "node2")]) == {("node1", "node2"): None}
