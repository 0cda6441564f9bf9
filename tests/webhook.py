"""A webhook on this machine, and Apprise's file that names it, for tests of messages to people."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

from namespaces import enter_network

TAG = "hook"


class Message(NamedTuple):
    title: str
    text: str


class Webhook:
    """Keeps the messages that it gets. `settings` make a run send them here.

    Args:
        folder: folder of Apprise's file.
        host: address of the webhook.
        machine: a process of the machine that has the address. None: this machine has it.
    """

    def __init__(self, folder: Path, host: str = "127.0.0.1", machine: int | None = None) -> None:
        self.messages: list[Message] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.messages.append(Message(body["title"], body["message"]))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        def serve() -> None:
            if machine is not None:
                enter_network(machine)
            self._server = ThreadingHTTPServer((host, 0), Handler)
            listens.set()
            self._server.serve_forever(0.01)

        listens = Event()
        Thread(target=serve, daemon=True).start()
        assert listens.wait(30)
        self.file = folder / "apprise.yml"
        url = f"json://{host}:{self._server.server_port}/"
        self.file.write_text(f"urls:\n  - {url}:\n      - tag: {TAG}\n")
        self.settings = (f"notify.to=[{TAG}]", f"notify.file={self.file}")

    def wait_for(self, number: int) -> list[Message]:
        """The messages, once there are so many."""
        deadline = time.monotonic() + 30
        while len(self.messages) < number:
            assert time.monotonic() < deadline, self.messages
            time.sleep(0.02)
        return self.messages

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def webhook(folder: Path, host: str = "127.0.0.1", machine: int | None = None) -> Iterator[Webhook]:
    """A webhook until the end of the block. The arguments are those of `Webhook`."""
    hook = Webhook(folder, host, machine)
    try:
        yield hook
    finally:
        hook.close()
