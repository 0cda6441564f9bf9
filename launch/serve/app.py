"""What the server answers. Every answer is read from the folder, and nothing can be changed."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any, NamedTuple

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted, readable
from data_pipelines.masking import masked
from launch.report.curves import POINTS
from launch.serve.curves_page import curves_page
from launch.serve.metric_series import MetricSeries, Window
from launch.serve.pictures import Pictures
from launch.serve.run_page import RunRecords, compared, logs_of, read_profile, read_run, run_page
from launch.serve.runs_of_folder import PROFILE, RunsOfFolder, changes

MOST_COMPARED = 20
"""Maximum number of runs side by side, as many as there are colors."""
_MOST_POINTS = 2000
_LOG_BYTES = 1 << 16
"""Maximum number of bytes of a log in one answer."""
_MEMORY = 1 << 28
"""Bytes of values that are kept of runs that were looked at. As many runs as a page compares stay in any case."""

HTML, JSON = "text/html; charset=utf-8", "application/json"
_STATIC = {
    "": ("launch.serve", "index.html", HTML),
    "page.css": ("launch.report", "page.css", "text/css; charset=utf-8"),
    "serve.css": ("launch.serve", "serve.css", "text/css; charset=utf-8"),
    **{
        name: ("launch.serve", name, "text/javascript; charset=utf-8")
        for name in ("serve.js", "list.js", "curves.js", "chart.js", "timeline.js", "logs.js", "dom.js")
    },
}
"""Files of the page by their place in URLs."""
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
PICTURES_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'; sandbox allow-same-origin"
)
"""The page of pictures has the style of the report in itself, no script, and is shown in a frame."""

Query = Mapping[str, Sequence[str]]


class Answer(NamedTuple):
    """The body of an answer."""

    body: bytes
    kind: str = JSON
    policy: str = PAGE_POLICY


class App:
    """Answers requests about the runs of a folder. Any thread may call.

    Args:
        folder: the runs.
    """

    def __init__(self, folder: RunsOfFolder) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._series: OrderedDict[str, MetricSeries] = OrderedDict()
        self._records: dict[str, tuple[tuple[Any, ...], RunRecords]] = {}
        self.pictures = Pictures()
        self._files = {
            place: Answer((resources.files(package) / name).read_bytes(), kind)
            for place, (package, name, kind) in _STATIC.items()
        }
        self._routes: dict[str, Callable[[Query], dict[str, Any]]] = {
            "api/runs": self._runs,
            "api/run": self._run,
            "api/metrics": self._metrics,
            "api/compare": self._compare,
            "api/log": self._log,
            "api/profile": lambda query: read_profile(self._folder.run(_one(query, "run"))),
        }

    def answer(self, place: str, query: Query) -> Answer | None:
        """Return the answer to a request. None: there is nothing at this place.

        Args:
            place: path of the URL without the first slash.
            query: parameters of the URL.

        Raises:
            UserError: the request names something that does not exist, or it cannot be read.
        """
        if place in self._files:
            return self._files[place]
        if place == "pictures":
            run = self._folder.run(_one(query, "run"))
            return Answer(self.pictures.of(run), HTML, PICTURES_POLICY)
        if (route := self._routes.get(place)) is None:
            return None
        return Answer(json.dumps(route(query), separators=(",", ":"), allow_nan=False).encode())

    def warm(self) -> None:
        """Read the list of runs once, so that the first page need not wait for it."""
        self._folder.summaries()

    def _runs(self, query: Query) -> dict[str, Any]:
        return {
            "folder": self._folder.name,
            "path": quoted(readable(self._folder.folder)),
            "single": list(self._folder.runs()) == ["."],
            "runs": [asdict(one) for one in self._folder.summaries()],
            "most_compared": MOST_COMPARED,
        }

    def _run(self, query: Query) -> dict[str, Any]:
        wanted = _one(query, "run")
        page = run_page(self._records_of(wanted), self._folder)
        if wanted == ".":
            page["name"] = self._folder.name
        if page["profile"] and not self._folder.run(wanted).metrics.is_file():
            page |= {"state": PROFILE, "figures": []}
        return page

    def _compare(self, query: Query) -> dict[str, Any]:
        return compared([self._records_of(name) for name in _runs_in(query)])

    def _metrics(self, query: Query) -> dict[str, Any]:
        runs = _runs_in(query)
        if "preview" in query:
            found = {run: self._series_of(run).preview(POINTS) for run in runs}
            if any(found.values()):
                shown = {run: rough or self._series_of(run).update(Window()) for run, rough in found.items()}
                return curves_page(shown, {}) | {"preview": True}
        window = Window(
            low=_number(query, "low"),
            high=_number(query, "high"),
            by_step=query.get("axis", [""])[-1] == "steps",
            points=int(min(_MOST_POINTS, max(10, _number(query, "points") or POINTS))),
        )
        cursors = [*query.get("cursor", ()), *[""] * len(runs)]
        updates = {
            run: self._series_of(run).update(window, cursor, query.get("name", ()))
            for run, cursor in zip(runs, cursors, strict=False)
        }
        # One chart shows all runs, so either all of its points are new, or none is repeated.
        if len({update.whole for update in updates.values()}) > 1:
            updates = {run: self._series_of(run).update(window) for run in runs}
        return curves_page(updates, {run: self._records_of(run).facts for run in runs})

    def _log(self, query: Query) -> dict[str, Any]:
        name, logs = _one(query, "file"), logs_of(self._folder.run(_one(query, "run")), self._folder)
        if name not in logs:
            raise UserError("there is no such log", where=name, fix="open the page of the run again")
        with logs[name].open("rb") as file:
            size = file.seek(0, 2)
            end = min(size, int(_number(query, "end") or size))
            start = max(0, int(_number(query, "start") or 0), end - _LOG_BYTES)
            file.seek(start)
            text = file.read(max(0, end - start)).decode(errors="replace")
        return {"size": size, "start": start, "end": max(start, end), "text": masked(text)}

    def _series_of(self, name: str) -> MetricSeries:
        run = self._folder.run(name)
        with self._lock:
            series = self._series.pop(name, None) or MetricSeries(run.metrics)
            self._series[name] = series
            while (
                len(self._series) > MOST_COMPARED
                and sum(one.nbytes for one in self._series.values()) > _MEMORY
            ):
                oldest, _ = self._series.popitem(last=False)
                self._records.pop(oldest, None)
        return series

    def _records_of(self, name: str) -> RunRecords:
        series, run = self._series_of(name), self._folder.run(name)
        mark = changes(run)
        known = self._records.get(name)
        if known is None or known[0] != mark:
            known = self._records[name] = (mark, read_run(run, name, series))
        return known[1]


def _one(query: Query, name: str) -> str:
    found = query.get(name, ())
    if len(found) != 1:
        raise UserError(f"the address needs {name}=…", fix="open the list of runs")
    return found[0]


def _runs_in(query: Query) -> list[str]:
    found = list(dict.fromkeys(query.get("run", ())))
    if not 1 <= len(found) <= MOST_COMPARED:
        raise UserError(
            f"a page shows between 1 and {MOST_COMPARED} runs, not {len(found)}", fix="choose fewer"
        )
    return found


def _number(query: Query, name: str) -> float | None:
    text = query.get(name, [""])[-1]
    if not text:
        return None
    try:
        number = float(text)
        int(number)
    except (ValueError, OverflowError):
        raise UserError("is not a number", where=f"{name}={text}", fix="open the page again") from None
    return number
