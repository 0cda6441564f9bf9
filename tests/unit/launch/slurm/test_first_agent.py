"""The first agent with ranks that are real processes, and with another agent in a thread."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from launch.local.processes import Failure
from launch.local.run_watch import RunWatch
from launch.local.worker import End
from launch.slurm import agent_links
from launch.slurm.agent_links import AgentLost, FirstAgent, LaterAgent
from launch.slurm.first_agent import Lead, Outlook
from launch.slurm.forwarded_signals import SignalForwarding
from launch.slurm.node_agent import NodeAgent, Place, follow
from trainer.runs.end_reasons import ExitCode
from trainer.runs.run_folder import RunFolder

RANK = """
import os, pathlib, sys, time
from trainer.distributed.rank_record import own_record
from trainer.distributed.record_layout import Phase
def import_all():
    pass
def main():
    folder = pathlib.Path(sys.argv[1])
    name = "{RANK} of {WORLD_SIZE} on {ALL4ONE_NODES} at {ALL4ONE_MEETING}".format(**os.environ)
    (folder / name.replace("/", "")).write_text(str(os.getpid()))
    record = own_record()
    while not (folder / "end").exists():
        if (folder / "step").exists():
            record.enter(Phase.FORWARD)
            record.finish_step(1)
        time.sleep(0.01)
    return 0
"""


class Restarts:
    """A recovery that allows each restart, and remembers the failures."""

    environment = {"EXTRA": "1"}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failures: list[Failure] = []

    def forking(self) -> AbstractContextManager[None]:
        return nullcontext()

    def watch(self, nodes: Mapping[int, str]) -> RunWatch:
        return RunWatch(RunFolder(self.folder), nodes, 0)

    def restarts(self, failure: Failure) -> bool:
        self.failures.append(failure)
        return True


class Job:
    """A job of several nodes on this machine. Its first agent runs in a thread, and the others are followed here."""

    def __init__(
        self, folder: Path, nodes: int, agents: int, *, shrinks: bool = False, absent: int | None = None
    ) -> None:
        self.folder, self.recovery = folder, Restarts(folder)
        self.given_up: list[Failure] = []
        self.threads = ThreadPoolExecutor()
        meeting = str(folder)
        self.agents = [self._agent(node, agents) for node in range(agents)]
        self.later: dict[int, LaterAgent] = {}
        joining = {
            node: self.threads.submit(LaterAgent, meeting, "127.0.0.1", node)
            for node in range(1, agents)
            if node != absent
        }
        others = FirstAgent(meeting, agents)
        others.names.update({node: f"host{node}" for node in joining})
        self.later = {node: future.result(timeout=30) for node, future in joining.items()}
        outlook = Outlook(self.recovery, lambda ranks: shrinks, lambda code: f"code {code}", self._give_up)
        lead = Lead(self.agents[0], others, nodes, outlook)
        self.ends: dict[int, Future[End]] = {0: self.threads.submit(lead.run)}
        for node, link in self.later.items():
            self.ends[node] = self.threads.submit(follow, self.agents[node], link)

    def _agent(self, node: int, agents: int) -> NodeAgent:
        place = Place(node, 1, ("127.0.0.1", *(f"name{n}" for n in range(1, agents))), self.folder.name)
        return NodeAgent(place, "one_rank", [str(self.folder)], self.folder / "logs", SignalForwarding())

    def _give_up(self, failure: Failure) -> str:
        self.given_up.append(failure)
        return "given up"

    def lose(self, node: int) -> None:
        """Close the connection of a node's agent, whose ranks then end."""
        self.later[node]._line.connection.shutdown(2)

    def ranks(self, start: int, count: int) -> list[str]:
        """The ranks of a start, once all are there."""
        deadline = time.monotonic() + 60
        while len(found := sorted(p.name for p in self.folder.glob(f"* at *.{start}"))) < count:
            assert time.monotonic() < deadline, [*self.folder.iterdir()]
            time.sleep(0.05)
        return [name.partition(" at ")[0] for name in found]

    def finish(self) -> End:
        (self.folder / "end").touch()
        return self.ends[0].result(timeout=60)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "one_rank.py").write_text(RANK)
    (tmp_path / "logs").mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(agent_links, "BEAT_S", 0.1)
    yield tmp_path
    (tmp_path / "end").touch()


def test_a_spare_has_no_rank_until_it_takes_the_place_of_a_lost_node(folder: Path) -> None:
    here = os.uname().nodename
    job = Job(folder, nodes=2, agents=3)
    assert job.ranks(1, 2) == [f"0 of 2 on {here},host1", f"1 of 2 on {here},host1"]
    job.lose(1)
    assert job.ranks(2, 2) == [f"0 of 2 on {here},host2", f"1 of 2 on {here},host2"]
    (failure,) = job.recovery.failures
    assert failure.message.startswith("rank 1 on host1 was lost with its node")
    assert job.finish() == End(0, "code 0")
    assert job.ends[2].result(timeout=30) == End(0, "code 0")
    with pytest.raises(AgentLost):
        job.ends[1].result(timeout=30)


def test_a_spare_imports_nothing_before_the_ranks_have_made_a_step(folder: Path) -> None:
    job = Job(folder, nodes=2, agents=3)
    job.ranks(1, 2)
    assert [agent.is_prepared for agent in job.agents] == [True, True, False]
    (folder / "step").touch()
    deadline = time.monotonic() + 30
    while not job.agents[2].is_prepared:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert job.finish() == End(0, "code 0")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first agent does not wait long."""
    monkeypatch.setattr(agent_links, "ARRIVE_S", 1.0)


@pytest.mark.usefixtures("soon")
def test_a_spare_takes_the_place_of_a_node_whose_agent_never_comes(folder: Path) -> None:
    here = os.uname().nodename
    job = Job(folder, nodes=2, agents=3, absent=1)
    assert job.ranks(1, 2) == [f"0 of 2 on {here},host2", f"1 of 2 on {here},host2"]
    assert not job.recovery.failures
    assert job.finish() == End(0, "code 0")


@pytest.mark.usefixtures("soon")
def test_without_a_spare_the_run_begins_with_fewer_nodes_or_is_given_up(folder: Path) -> None:
    job = Job(folder, nodes=2, agents=2, absent=1)
    assert job.ends[0].result(timeout=60) == End(ExitCode.LOST_PEER, "given up")
    assert job.given_up[0].message == "node name1 is lost: its agent did not come within 1 s"
    job = Job(folder, nodes=2, agents=2, absent=1, shrinks=True)
    assert job.ranks(1, 1)[0].startswith("0 of 1 on ")
    assert job.finish().code == 0


@pytest.mark.usefixtures("soon")
def test_a_node_that_comes_late_is_a_spare(folder: Path) -> None:
    job = Job(folder, nodes=2, agents=3, absent=2)
    job.ranks(1, 2)
    late = job.threads.submit(LaterAgent, str(folder), "127.0.0.1", 2).result(timeout=30)
    job.ends[2] = job.threads.submit(follow, job.agents[2], late)
    job.lose(1)
    assert len(job.ranks(2, 2)) == 2
    assert job.finish().code == 0
    assert job.ends[2].result(timeout=30).code == 0


def test_a_lost_spare_disturbs_nothing_and_takes_no_place(folder: Path) -> None:
    job = Job(folder, nodes=2, agents=4)
    job.ranks(1, 2)
    job.lose(2)
    with pytest.raises(AgentLost):
        job.ends[2].result(timeout=30)
    job.lose(1)
    assert "host3" in job.ranks(2, 2)[0]
    assert job.finish().code == 0


def test_without_a_spare_a_run_shrinks_if_it_may(folder: Path) -> None:
    job = Job(folder, nodes=2, agents=2, shrinks=True)
    job.ranks(1, 2)
    job.lose(1)
    assert job.ranks(2, 1) == [f"0 of 1 on {os.uname().nodename}"]
    assert job.finish().code == 0


def test_a_run_that_may_not_shrink_is_given_up(folder: Path) -> None:
    job = Job(folder, nodes=2, agents=2)
    job.ranks(1, 2)
    job.lose(1)
    assert job.ends[0].result(timeout=60) == End(ExitCode.LOST_PEER, "given up")
    assert [failure.code for failure in job.given_up] == [128 + signal.SIGKILL]
    assert job.recovery.failures == []
