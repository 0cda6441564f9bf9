"""The job that SLURM runs on each node for `all4one doctor --nodes`: rates of the node, and two rounds of pairs.

The nodes exchange what they find through files in a folder that they share. A node that dies leaves none, and is named.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import submitit

from data_pipelines.errors import UserError, first_line
from data_pipelines.files import write_whole
from data_pipelines.log import LOGGER
from launch.node_check.comparison import Pair, first_round, second_round
from launch.node_check.links import pair_rate
from launch.node_check.rates import NodeRates, measure_node
from launch.slurm.job_start import Start
from launch.slurm.rank_of_job import begin_task

WAIT_SECONDS = 15.0
"""How long the first node waits for the results of a round, seconds. Later results count as failures."""
_LOOK_SECONDS = 0.1


class NodeCheckJob:
    """A check of nodes as submitit pickles it.

    Args:
        folder: folder of the results, on a file system that all nodes share.
        data: folder of a set on whose disk files are read. None: no disk is measured.
        tolerance: fraction of the median by which a rate may be lower.
    """

    def __init__(self, folder: Path, data: Path | None, tolerance: float) -> None:
        self.folder, self.data, self.tolerance = folder, data, tolerance

    def __call__(self) -> None:
        """Check the node of this task, and its links."""
        number = begin_task(self.folder / "logs")
        nodes, start = list(submitit.JobEnvironment().hostnames), Start.this()
        node, meeting = nodes[number], f"{start.job}.{start.restart}"
        rates = replace(measure_node(self.data), node=node)
        self._write(f"rates_{number}", rates.as_json())
        self._run_round(1, first_round(nodes), nodes, node, meeting)
        if number == 0:
            self._write(
                "second_round", second_round(nodes, self._round(1, first_round(nodes)), self.tolerance)
            )
        path = self.folder / "second_round.json"
        _wait_for(path.exists, 3 * WAIT_SECONDS)
        if path.exists():
            pairs = [(str(one), str(other)) for one, other in json.loads(path.read_text())]
            self._run_round(2, pairs, nodes, node, meeting)

    def _run_round(
        self, number: int, pairs: Sequence[Pair], nodes: Sequence[str], node: str, meeting: str
    ) -> None:
        """Measure the link of this node's pair, if it has one, and write the result."""
        pair = next((one for one in pairs if node in one), None)
        if pair is None:
            return
        found: dict[str, Any]
        try:
            found = {"rate": pair_rate(f"{meeting}.{number}.{pair[0]}", pair[0], pair.index(node))}
        except UserError as error:
            found = {"failure": error.what}
        except (RuntimeError, OSError) as error:
            found = {"failure": first_line(error)}
            LOGGER.warning("the link of %s and %s failed: %s", *pair, error)
        self._write(f"link_{number}_{nodes.index(node)}", {"pair": pair, **found})

    def _round(self, number: int, pairs: Sequence[Pair]) -> Mapping[Pair, float | None]:
        """Return the rates of a round. The first node waits for those that are missing."""
        _wait_for(
            lambda: len(list(self.folder.glob(f"link_{number}_*.json"))) >= 2 * len(pairs), WAIT_SECONDS
        )
        return round_rates(self.folder, number, pairs)

    def _write(self, name: str, values: Any) -> None:
        write_whole(self.folder / f"{name}.json", json.dumps(values).encode())


def node_rates(folder: Path) -> list[NodeRates]:
    """Return what the nodes have measured, by the number of the node."""
    found = sorted(folder.glob("rates_*.json"), key=lambda path: int(path.stem.split("_")[1]))
    return [NodeRates(**json.loads(path.read_text())) for path in found]


def round_rates(folder: Path, number: int, pairs: Sequence[Pair]) -> dict[Pair, float | None]:
    """Return the rate of each pair of a round: the lower one that its nodes measured. None: one of them measured none.

    Args:
        folder: folder of the results.
        number: 1 or 2.
        pairs: the pairs of the round.
    """
    measured: dict[Pair, list[float]] = {pair: [] for pair in pairs}
    for path in folder.glob(f"link_{number}_*.json"):
        one = json.loads(path.read_text())
        if "rate" in one and (pair := tuple(one["pair"])) in measured:
            measured[pair].append(one["rate"])
    return {pair: min(rates) if len(rates) == len(pair) else None for pair, rates in measured.items()}


def second_pairs(folder: Path) -> list[Pair]:
    """Return the pairs of the second round. Empty: the first node did not come that far."""
    path = folder / "second_round.json"
    return [(str(one), str(other)) for one, other in json.loads(path.read_text())] if path.exists() else []


def _wait_for(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
