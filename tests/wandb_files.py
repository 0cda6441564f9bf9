"""What the files of Weights & Biases hold that its offline mode writes, for tests."""

import json
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple


class OfflineRun(NamedTuple):
    id: str
    name: str
    tags: list[str]
    project: str
    config: dict[str, Any]
    history: list[dict[str, Any]]


def offline_runs(folder: Path) -> list[OfflineRun]:
    """Those in the library's folder, in the order in which they began."""
    paths = sorted(folder.glob("offline-run-*/*.wandb"))  # named by the second, then by a number
    return [_read(path) for path in paths]


def _read(path: Path) -> OfflineRun:
    records = _records(path)
    (run,) = (r.run for r in records if r.WhichOneof("record_type") == "run")
    history = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in r.history.item}
        for r in records
        if r.WhichOneof("record_type") == "history"
    ]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    return OfflineRun(run.run_id, run.display_name, list(run.tags), run.project, config, history)


def _records(path: Path) -> list[Any]:
    """All records of a run that has ended; the library's own process may write the last ones after `finish`."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    deadline = time.monotonic() + 30
    while True:
        with suppress(DecodeError, struct.error):
            records = [Record.FromString(message) for message in _messages(path.read_bytes())]
            if records and records[-1].WhichOneof("record_type") == "exit":
                return records
        assert time.monotonic() < deadline, f"{path} has no end"
        time.sleep(0.05)


def _messages(data: bytes, header: int = 7, block: int = 2**15) -> Iterator[bytes]:
    """The log format of LevelDB: checksum, length, kind (1 whole, 4 last part), bytes; none begins in a block's end."""
    message, place = b"", header
    while place + header <= len(data):
        if (left := block - place % block) < header:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        message += data[place + header : place + header + length]
        place += header + length
        if kind in (1, 4):
            yield message
            message = b""
