"""The process that checks a node of a job. The agent of the node starts it as it starts ranks, and ends it.

The agent itself measures nothing. Threads and a GPU in use would keep it from forking its ranks.
"""

import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError, first_line
from launch.local.process_name import name_of_check, name_process
from launch.local.rank_processes import heed_signals
from launch.local.worker import end_with_parent
from launch.node_check.links import pair_rate
from launch.node_check.rates import measure_node
from trainer.runs.supervisor import send

PATIENCE_SECONDS = 5.0
"""How long the process waits for its partner on another node."""
LINK_SECONDS = 0.5
"""Time of the measurement of a link."""


def import_all() -> None:
    """Import what the process needs. This module has done so."""


def main() -> int:
    """Answer the orders that come through the socket whose file descriptor is `sys.argv[1]`, until the agent ends this
    process or closes the socket.

    The answer to `{"measure": …}` has the rates of this node, and the one to `{"pair": …}` the rate of a link. Returns
    the exit code.
    """
    end_with_parent()
    heed_signals()
    name_process(name_of_check(int(os.environ["RANK"])))
    with (
        socket.socket(fileno=int(sys.argv[1])) as connection,
        connection.makefile("r") as orders,
    ):
        for order in map(json.loads, orders):
            send(connection, _measure(order["measure"]) if "measure" in order else _pair(order["pair"]))
    return 0


def _measure(order: Mapping[str, Any]) -> dict[str, Any]:
    data = order["data"]
    found = measure_node(None if data is None else Path(data), seconds=order["seconds"])
    return {"rates": found.rates, "failures": found.failures}


def _pair(order: Mapping[str, Any]) -> dict[str, Any]:
    try:
        rate = pair_rate(
            order["meeting"],
            order["first"],
            order["rank"],
            seconds=LINK_SECONDS,
            patience=PATIENCE_SECONDS,
        )
    except UserError as error:
        return {"round": order["round"], "failure": error.what}
    except (RuntimeError, OSError) as error:
        return {"round": order["round"], "failure": first_line(error)}
    return {"round": order["round"], "rate": rate}
