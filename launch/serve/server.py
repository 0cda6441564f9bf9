"""The HTTP server of `all4one serve`. It listens on this machine only, and answers GET and HEAD."""

import errno
import gzip
import hashlib
import json
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from data_pipelines.errors import UserError
from data_pipelines.formatting import amount, quoted
from launch.serve.app import JSON, PAGE_POLICY, Answer, App
from launch.serve.runs_of_folder import RunsOfFolder

LOOPBACK = "127.0.0.1"
_NAMES = ("localhost", LOOPBACK, "[::1]")
"""Names of this machine in the header `Host`. A page of another site, whose name has been pointed at this address,
sends its own name. Ports may be any, because an SSH tunnel may begin at another one."""
_LEAST_GZIP = 1 << 10
"""Size below which an answer is not compressed, bytes."""
_IDLE_S = 60
"""Time after which an idle connection is closed, seconds."""


class LiveServer(ThreadingHTTPServer):
    """Serves the runs of a folder. Each connection has a thread.

    Args:
        folder: the runs.
        port: port of the loopback address. 0: a free one.

    Raises:
        UserError: the folder does not exist, or the port is taken or not allowed.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        if not folder.is_dir():
            what = "this is a file, not a folder" if folder.exists() else "this folder does not exist"
            raise UserError(what, where=folder, fix="give a folder of runs, or the folder of one run")
        self.runs = RunsOfFolder(folder)
        self.app = App(self.runs)
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            raise _port_error(error, port) from None

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore browsers that leave before they have the whole answer, and print other errors."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            traceback.print_exc()


def serve(folder: Path, port: int) -> None:
    """Serve the runs of a folder until Ctrl-C.

    Raises:
        UserError: the folder does not exist, or the port is taken or not allowed.
    """
    with LiveServer(folder, port) as server:
        threading.Thread(target=server.app.warm, daemon=True).start()
        count = len(server.runs.runs())
        address = f"http://{LOOPBACK}:{server.port}/"
        print(f"{amount(count, 'run', 'runs')} in {folder}: {address}  (stop with Ctrl-C)")
        print(
            f"from another machine: ssh -L {server.port}:{LOOPBACK}:{server.port} USER@{socket.gethostname()}"
            f"  and open {address} there",
            flush=True,
        )
        if not count:
            made = f"all4one train RECIPE run.folder={quoted(folder)}"
            print(f"`{made}` makes a run, and the page shows it as soon as it begins", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nstopped", flush=True)
        finally:
            server.app.pictures.close()


def _port_error(error: OSError, port: int) -> Exception:
    others = "choose another port with --port N, or a free one with --port 0"
    if error.errno == errno.EADDRINUSE:
        return UserError(f"port {port} is taken by another program", fix=others)
    if error.errno == errno.EACCES:
        return UserError(f"port {port} is reserved for the administrator", fix=others)
    return error


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    protocol_version = "HTTP/1.1"
    server_version = "all4one"
    sys_version = ""
    timeout = _IDLE_S

    def do_GET(self) -> None:
        """Answer a request."""
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body is not read, and must not be taken for the next request
        status, answer = self._answer()
        body, headers = answer.body, {"Content-Type": answer.kind, "Content-Security-Policy": answer.policy}
        mark = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
        if status is HTTPStatus.OK and self.headers.get("If-None-Match") == mark:
            status, body = HTTPStatus.NOT_MODIFIED, b""
        elif len(body) >= _LEAST_GZIP and "gzip" in self.headers.get("Accept-Encoding", ""):
            body, headers["Content-Encoding"] = gzip.compress(body, 1), "gzip"
        self._send(status, body, headers | {"ETag": mark})

    do_HEAD = do_GET

    def refuse(self) -> None:
        """Refuse a request that could change something."""
        self.close_connection = True  # its body is not read
        answer = _error("this page is only for reading")
        self._send(
            HTTPStatus.METHOD_NOT_ALLOWED,
            answer.body,
            {"Allow": "GET, HEAD", "Content-Type": JSON, "Content-Security-Policy": PAGE_POLICY},
        )

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = refuse

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing. A page that asks every few seconds would fill the terminal."""

    def _answer(self) -> tuple[HTTPStatus, Answer]:
        host = self.headers.get("Host", "")
        name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "0")
        if name.lower() not in _NAMES or not port.isdigit():
            return HTTPStatus.MISDIRECTED_REQUEST, _error("open this page as localhost or 127.0.0.1")
        try:
            address = urlsplit(self.path)
            place = unquote(address.path).removeprefix("/")
            # A page of another site may link to this page, but must not make the server compute pictures.
            if place and self.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
                return HTTPStatus.FORBIDDEN, _error("a page of another site has asked for this")
            found = self.server.app.answer(place, parse_qs(address.query, keep_blank_values=True))
        except UserError as error:
            return HTTPStatus.NOT_FOUND, _error(str(error))
        except ValueError as error:
            return HTTPStatus.BAD_REQUEST, _error(f"this is not an address of the page: {error}")
        except Exception as error:  # one run that cannot be shown must not end the page
            traceback.print_exc()
            return HTTPStatus.INTERNAL_SERVER_ERROR, _error(f"{type(error).__name__}: {error}")
        return (HTTPStatus.OK, found) if found else (HTTPStatus.NOT_FOUND, _error("there is nothing here"))

    def _send(self, status: HTTPStatus, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Vary", "Accept-Encoding")
        if status is not HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _error(words: str) -> Answer:
    return Answer(json.dumps({"error": words}).encode())
