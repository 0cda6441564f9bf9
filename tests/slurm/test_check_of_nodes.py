"""`all4one doctor --nodes` on a cluster: each node measures its rates, and pairs of nodes their links."""

import json

from commands import Command

from launch.node_check.rates import Rate


def test_every_node_and_its_links_are_measured_in_one_job(jobs) -> None:
    # The three nodes share the cores of this machine, so their rates differ at random.
    result = jobs.all4one(
        "doctor",
        "--nodes",
        3,
        "--cpus-per-task",
        1,
        "--runs",
        jobs.runs.folder,
        "--data",
        jobs.runs.digits,
        "--tolerance",
        0.99,
        "--json",
    )
    assert result.code == 0, result.out
    found = json.loads(result.out[result.out.index("{") :])
    assert found["nodes"] == ["node1", "node2", "node3"]
    assert [one["node"] for one in found["rates"]] == found["nodes"]
    for one in found["rates"]:
        assert not one["failures"]
        assert set(one["rates"]) == set(Rate)
        assert min(one["rates"].values()) > 0
    # The second round finds a partner for the third node.
    assert [one["nodes"] for one in found["links"]] == [["node1", "node2"], ["node3", "node1"]]
    assert all(one["bytes_per_second"] > 0 for one in found["links"])
    assert (found["bad_nodes"], found["bad_links"], found["unclear_links"]) == ({}, [], [])


def test_a_set_that_no_node_can_read_is_named_for_each_of_them(jobs) -> None:
    result = jobs.all4one(
        "doctor",
        "--nodes",
        2,
        "--cpus-per-task",
        1,
        "--runs",
        jobs.runs.folder,
        "--data",
        jobs.runs.folder / "nowhere",
        "--tolerance",
        0.99,
    )
    assert result.code == 1
    assert "node1 is bad. read of the set: there is no shard here" in result.words
    assert "--exclude node1,node2" in result.words


def test_a_node_that_loses_power_during_the_check_is_named(jobs) -> None:
    check = Command(
        "doctor",
        "--nodes",
        3,
        "--cpus-per-task",
        1,
        "--runs",
        jobs.runs.folder,
        "--tolerance",
        0.99,
        machine=jobs.cluster.head,
    )
    logs = jobs.runs.folder.glob
    jobs.cluster.until(lambda: [*logs(".node_check-*/logs/rank_2.log")], 60, "the check does not start")
    jobs.cluster.cut_power("node3")
    out, _ = check.communicate(timeout=180)
    assert check.returncode == 1, out
    # It depends on the moment whether it has told its rates.
    assert "node3 is bad. " in out
    assert "--exclude node3" in out
