"""An HTTP server of a folder for tests: it knows ranges, keeps a log, and misbehaves when told."""

import re
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple


class Request(NamedTuple):
    name: str
    start: int


class FileServer:
    """Serves `folder` at `url` until `close`.

    `fault` is asked about each request: an HTTP status to answer with, `cut` to break off in the middle, `stall` to
    answer nothing, `whole` to ignore the range, `half` to answer a range with half of it, `html` to answer with a page,
    None for a good answer. `queries` are what follows `?` in the URLs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[Request] = []
        self.queries: list[str] = []
        self.fault: Callable[[Request], int | str | None] = lambda request: None
        self.stalled = 0
        self.closing = Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/set"
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def starts(self, name: str) -> list[int]:
        """Where the requests of a file began."""
        return [request.start for request in self.requests if request.name == name]

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, server: FileServer, *args: object) -> None:
        self.files = server
        super().__init__(*args)

    def do_GET(self) -> None:
        name, _, query = self.path.removeprefix("/set/").partition("?")
        self.files.queries.append(query)
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, last = (int(match[1]), int(match[2])) if match else (0, 1 << 60)
        request = Request(name, start)
        self.files.requests.append(request)
        fault = self.files.fault(request)
        path = self.files.folder / name
        if fault == "stall":
            self.files.stalled += 1
            self.files.closing.wait(30)
            return
        if isinstance(fault, int):
            self.send_error(fault)
            return
        if not path.is_file():
            self.send_error(404)
            return
        whole = (
            path.read_bytes() if fault != "html" else b"<!DOCTYPE html>\n<title>Sign in</title>" + bytes(9)
        )
        if fault == "whole":
            match, start, last = None, 0, len(whole)
        if match and start >= len(whole):
            self.send_error(416)
            return
        content = whole[start : last + 1]
        if fault == "half":
            content = content[: (len(content) + 1) // 2]
        self.send_response(206 if match else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "cut":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass
