from dataclasses import replace
from pathlib import Path

import pytest

from launch.local.hang_detection import Hang
from launch.status.ledger import AttemptSummary, Hours
from launch.status.suspect_nodes import (
    excluded_from_new,
    excluded_from_resumed,
    failures,
    suspect_nodes,
    times_in_failures,
)
from trainer.config.schema import load_config
from trainer.engine.replicas import Difference, StateKind
from trainer.runs.end_reasons import EndReason
from trainer.runs.replica_checks import description
from trainer.runs.run_folder import RunFolder


def attempt(nodes: str, reason: str = EndReason.NO_END, message: str = "") -> AttemptSummary:
    return AttemptSummary(1, "7", nodes, 1, 0, 1, reason, message, 0, 0, 0, 0, Hours())


def killed(nodes: str, node: str) -> AttemptSummary:
    return attempt(nodes, "killed", f"{node}, task 1: Killed")


def killed_in_place(nodes: str, node: str, why: str = "") -> AttemptSummary:
    return attempt(nodes, "killed", f"rank 1 on {node} was ended by SIGKILL{why}")


def differed(nodes: str, node: str) -> AttemptSummary:
    difference = Difference([3], True, {StateKind.WEIGHTS: ["a", "b"]})
    return attempt(nodes, "error", f"runs/a: {description(difference, [node])} after step 4")


def well(nodes: str, reason: str = "time is up") -> AttemptSummary:
    return attempt(nodes, reason)


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([killed("node[1-2]", "node2"), killed("node[2-3]", "node2")], ["node2"]),
        ([killed("node[1-2]", "node2"), killed("node[1-2]", "node1")], []),
        ([killed("node[1-2]", "node2"), killed_in_place("node1,node2", "node2")], ["node2"]),
        ([killed_in_place("node1,node2", "node2", " (out of memory?)")] * 2, ["node2"]),
        ([killed_in_place("node1,node2", "node2", ", because memory ran out: give the run more")] * 2, []),
        ([killed("node[1-2]", "node2"), differed("node[1-2]", "node2")], ["node2"]),
        ([killed("node[1-2]", "node2"), attempt("node[1-2]")], []),
        ([attempt("node[1-2]"), attempt("node[2-3]")], ["node2"]),
        ([attempt("node[1-2]"), attempt("node[1-2]")], []),  # nothing tells the two apart
        ([attempt("node3"), attempt("node3")], []),  # nor a broken machine from a broken run
        ([attempt("node3"), attempt("node3"), well("node1")], ["node3"]),
        ([well("node[1,3]"), attempt("node[2-3]"), attempt("node[3-4]")], ["node3"]),
        ([attempt("node[1-8]"), attempt("node[1-7,9]")], []),  # no one machine stands out
        ([attempt("node[1-2]", "error", "the loss is nan")] * 3 + [well("node[1-9]")], []),
        ([attempt("node[1-2]", "error", "node2, task 1: Exited with exit code 1")] * 2, ["node2"]),
        ([well("node1", reason) for reason in ("preempted", "cancelled", "finished")] * 2, []),
        ([attempt("node[1-2]", "killed", "node2, task 1: Out Of Memory")] * 2, []),  # it asked for too little
        ([attempt("")] * 3, []),
        ([], []),
    ],
)
def test_a_machine_is_suspect_where_two_failures_point_at_it(
    attempts: list[AttemptSummary], expected: list[str]
) -> None:
    assert suspect_nodes(attempts) == expected


def test_ends_that_were_asked_for_are_no_failures() -> None:
    good = [
        well("node1", reason) for reason in ("time is up", "preempted", "requeued", "cancelled", "finished")
    ]
    assert failures([*good, well("node1", "running")]) == []


def failing_run(folder: Path, *killed_on: str) -> RunFolder:
    """A run on node[1-3] of which a machine was killed at each attempt."""
    run = RunFolder(folder)
    run.path.mkdir(parents=True)
    run.write_config(load_config("digits_demo", ["slurm.exclude=node9"]))
    for number, node in enumerate(killed_on, start=1):
        run.note("start", attempt=number, world_size=3, nodes="node[1-3]")
        run.note("end", attempt=number, reason="killed", message=f"{node}, task 0: Killed")
    return run


def test_a_resumed_run_leaves_its_suspects_out_besides_those_that_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = failing_run(tmp_path / "one", "node2", "node1", "node2")
    assert excluded_from_resumed(run.path, []) == ['slurm.exclude="node9,node2"']
    assert "excluded: node2 was in 3 of 3 failed attempts" in capsys.readouterr().out
    assert excluded_from_resumed(run.path, ["slurm.exclude=node[1-2]"]) == []


def test_a_new_run_leaves_out_what_is_suspect_by_the_runs_beside_it_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    settings = [f"run.folder={tmp_path}"]
    assert excluded_from_new("digits_demo", settings) == []
    failing_run(tmp_path / "one", "node2")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.yaml").write_text("model: resnet\n")
    failing_run(tmp_path / "sweep" / "two", "node2")
    assert excluded_from_new("digits_demo", settings) == ['slurm.exclude="node2"']
    assert excluded_from_new("digits_demo", [*settings, "slurm.exclude=node7"]) == [
        'slurm.exclude="node7,node2"'
    ]


def hung(nodes: str, node: str) -> AttemptSummary:
    return attempt(nodes, EndReason.STALLED, Hang((1,), 5, 30.0, "It is in backward").message({1: node}))


def test_a_node_whose_ranks_hung_twice_is_suspect() -> None:
    assert suspect_nodes([hung("node[1-2]", "node2"), hung("node[1-2]", "node1")]) == []
    assert suspect_nodes([hung("node[1-2]", "node2"), killed("node[1-2]", "node2")]) == ["node2"]


def test_a_node_that_was_slow_once_is_suspect() -> None:
    slow = replace(well("node[1-2]"), slow_nodes=("node2",))
    assert suspect_nodes([slow, well("node[1-2]")]) == ["node2"]
    assert times_in_failures("node2", [slow, well("node[1-2]")]) == "node2 was slow in 1 of 2 attempts"
    both = times_in_failures("node2", [slow, killed("node[1-2]", "node2")])
    assert both == "node2 was in 1 of 1 failed attempts and was slow in 1 of 2 attempts"
    assert suspect_nodes([replace(slow, nodes="")]) == []  # without SLURM there is nothing to exclude


def test_a_node_that_a_check_found_bad_is_suspect_also_if_a_spare_has_replaced_it() -> None:
    checked = replace(well("node[1-2]"), bad_nodes=("node3",))
    assert suspect_nodes([checked, well("node[1-2]")]) == ["node3"]
    said = times_in_failures("node3", [checked, well("node[1-2]")])
    assert said == "node3 was bad in the check before 1 of 2 attempts"
    slow = replace(checked, slow_nodes=("node3",))
    assert times_in_failures("node3", [slow, killed("node[2-3]", "node2")]) == (
        "node3 was in 1 of 1 failed attempts and was slow in 1 of 2 attempts and was bad in the check before 1 of 2 "
        "attempts"
    )
