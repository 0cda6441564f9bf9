"""Pages of `all4one serve` in a real browser, as tests open and read them."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@contextmanager
def opened(
    browser: Any, port: int, place: str = "", size: dict[str, int] = DESK, scheme: str = "light"
) -> Iterator[Any]:
    """A page of which nothing goes wrong: no message, no error, and no request to another origin."""
    wrong: list[str] = []
    page = browser.new_page(viewport=size, color_scheme=scheme)
    origin = f"http://127.0.0.1:{port}/"
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda asked: wrong.append(asked.url) if not asked.url.startswith((origin, "data:")) else None,
    )
    page.goto(origin + place)
    yield page
    assert wrong == []
    assert page.evaluate("window.hacked") is None
    page.close()


@contextmanager
def forwarded(port: int) -> Iterator[int]:
    """Another port from which connections are passed on, as `ssh -L` does."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while part := source.recv(1 << 16):
                target.sendall(part)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=copy, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def settled_plot(page: Any) -> tuple[Any, dict[str, float]]:
    """The chart of the loss and its place, once nothing that comes later can move it."""
    page.locator("#sections a", has_text="Settings").wait_for()
    page.get_by_text("EMA momentum τ").wait_for()  # it is not in a rough picture
    plot = page.locator("#losses .plot").first
    plot.scroll_into_view_if_needed()
    return plot, plot.bounding_box()


def newest(chart: Any) -> str:
    return str(chart.locator("figcaption span").inner_text())
