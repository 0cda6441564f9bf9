"""Folders of runs as training writes them, without training, and a server of `all4one serve` in this process."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from commands import Command

from launch.serve.server import LiveServer
from trainer.config.schema import load_config
from trainer.runs.run_folder import RunFolder, create_run


def write_run(folder: Path, name: str, *overrides: str, steps: int = 40) -> RunFolder:
    """A run that has ended, with some steps, two evaluations and a log."""
    config = load_config("digits_demo", [f"run.folder={folder}", f"run.name={name}", *overrides])
    run = create_run(config, name)
    run.note("start", attempt=1, world_size=2, host="here", nodes="node[1-2]", last_recorded=None)
    run.note("ready", attempt=1, step=0, total_steps=steps, replayed=0)
    records = [{"kind": "eval", "step": 0, "epoch": 0.0, "knn_online": 0.5}]
    records += [train_record(step) for step in range(1, steps + 1)]
    records.append({"kind": "eval", "step": steps, "epoch": steps / 10, "knn_online": 0.75})
    append(run, *records)
    run.note("end", attempt=1, reason="finished", step=steps)
    log = run.logs / "20260101T000000_1" / "rank_0.log"
    log.parent.mkdir()
    log.write_text(f"the log of {name}\n")
    return run


def train_record(step: int, **values: float) -> dict[str, Any]:
    time = {"images_per_second": 100.0, "data_wait": 0.01}
    return {
        "kind": "train",
        "step": step,
        "epoch": step / 10,
        "loss": 3 / step,
        "lr": 0.1 / step,
        "time": time,
    } | values


def append(run: RunFolder, *records: dict[str, Any]) -> None:
    """Append records to the metrics as training does."""
    with run.metrics.open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def copy_run(run: RunFolder, path: Path) -> RunFolder:
    """Copy a run, which is faster than writing one with a configuration of its own."""
    shutil.copytree(run.path, path)
    return RunFolder(path)


@contextmanager
def serving(folder: Path) -> Iterator[LiveServer]:
    """A server of a folder at a free port."""
    with LiveServer(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        server.app.pictures.close()
        thread.join()


class Reply:
    """An answer of the server."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    server: LiveServer,
    place: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    **query: Any,
) -> Reply:
    """Send a request with exactly this path, which a browser would have made shorter."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        whole = f"{place}?{urlencode(query, doseq=True)}" if query else place
        connection.request(method, whole, headers=headers or {})
        got = connection.getresponse()
        return Reply(got.status, dict(got.getheaders()), got.read())
    finally:
        connection.close()


def wait_for_server(port: int, command: Command) -> None:
    """Return once a command of `all4one serve` answers at a port."""
    deadline = time.monotonic() + 60
    while True:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/api/runs")
            assert connection.getresponse().status == 200
            return
        except OSError:
            assert command.poll() is None, command.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        finally:
            connection.close()
