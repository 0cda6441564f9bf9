"""Named, nested spans of time on a CPU or on a GPU's stream."""

import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch


class Span(NamedTuple):
    """A named interval in seconds since the start of the timeline."""

    name: str
    start: float
    end: float


class Timeline:
    """Collects spans while it is `on`. While it is off, a span costs only a function call.

    On a CUDA device, times are measured on its stream with events, so the host does not wait.
    """

    def __init__(self, device: torch.device) -> None:
        self.on = False
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, float | torch.cuda.Event, float | torch.cuda.Event]] = []
        self._began = self._now()

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Record the block as a span with this name."""
        if not self.on:
            yield
            return
        start = self._now()
        try:
            yield
        finally:
            self._marks.append((name, start, self._now()))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Be on in this context."""
        self.on = True
        try:
            yield
        finally:
            self.on = False

    def take(self) -> list[Span]:
        """Return `spans`, and forget them."""
        found = self.spans()
        self._marks.clear()
        return found

    def spans(self) -> list[Span]:
        """Return all spans so far, sorted by start, enclosing spans first. Waits for the device."""
        if self._cuda:
            torch.cuda.synchronize()
        found = [Span(name, self._seconds(start), self._seconds(end)) for name, start, end in self._marks]
        return sorted(found, key=lambda span: (span.start, -span.end))

    def _now(self) -> float | torch.cuda.Event:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self, mark: float | torch.cuda.Event) -> float:
        if isinstance(mark, float):
            assert isinstance(self._began, float)
            return mark - self._began
        assert isinstance(self._began, torch.cuda.Event)
        return self._began.elapsed_time(mark) / 1000


def own_time(spans: Sequence[Span], whole: Collection[str] = ()) -> dict[str, float]:
    """Return the seconds of each name without the spans inside. Names in `whole` keep them.

    Spans are nested and in the order of `spans()`.
    """
    seconds: dict[str, float] = defaultdict(float)
    open_spans: list[Span] = []
    for span in spans:
        while open_spans and open_spans[-1].end <= span.start:
            open_spans.pop()
        if any(outer.name in whole for outer in open_spans):
            continue
        seconds[span.name] += span.end - span.start
        if open_spans:
            seconds[open_spans[-1].name] -= span.end - span.start
        open_spans.append(span)
    return dict(seconds)
