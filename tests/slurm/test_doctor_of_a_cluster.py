"""`all4one doctor` on a cluster, and what SLURM itself says of arrays and short forms."""

import json
import sys

from launch.slurm.hostlist import expand_hostlist

ASK = (
    "import sys; from launch.slurm.slurm_commands import jobs; "
    "print({n: j.state for n, j in jobs(sys.argv[1:]).items()})"
)


def test_on_the_head_machine_nothing_stops_runs_and_a_controller_that_hangs_is_said(jobs) -> None:
    doctor = ("doctor", "--runs", jobs.runs.folder, "--json")
    result = jobs.all4one(*doctor)
    assert result.code == 0, result.out
    found = {finding["check"]: finding for finding in json.loads(result.out)["findings"]}
    assert "cluster tests answers" in found["SLURM"]["what"]
    assert found["preemption"]["level"] == "ok"
    assert found["KillWait"]["what"].startswith("5 s")
    assert found["gloo"]["level"] == "ok"
    assert "head resolves to 10.77.0.1" in found["host name"]["what"]
    with jobs.cluster.controller_hangs():
        result = jobs.all4one(*doctor)
    assert result.code == 1
    found = {finding["check"]: finding for finding in json.loads(result.out)["findings"]}
    assert (found["SLURM"]["level"], "does not answer" in found["SLURM"]["what"]) == ("problem", True)
    assert [name for name, finding in found.items() if finding["level"] == "problem"] == ["SLURM"]


def test_elements_of_an_array_that_wait_are_jobs_each(cluster) -> None:
    number = cluster.run(
        "sbatch", "--parsable", "--array=0-3", "--hold", "--output=/dev/null", "--wrap=sleep 1"
    ).strip()
    said = cluster.run(sys.executable, "-c", ASK, f"{number}_1", f"{number}_3")
    assert said.strip() == str({f"{number}_{element}": "PENDING" for element in (1, 3)})


def test_short_forms_are_spelt_out_as_slurm_does(cluster) -> None:
    for names in ("node1,node2,node3", "n098,n099,n100,login1", "r1n3,r1n5,r2n3,r2n5", "n01-ib,n02-ib"):
        short = cluster.run("scontrol", "show", "hostlist", names).strip()
        assert expand_hostlist(short) == cluster.run("scontrol", "show", "hostnames", short).split(), short
