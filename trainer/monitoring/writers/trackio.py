"""Trackio: one run that begins with the name of this run, which every attempt continues."""

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from data_pipelines.urls import Url
from trainer.monitoring.writers.base import Record, numbers
from trainer.monitoring.writers.sent_steps import SentSteps

SPACES = "hf://spaces/"
"""Beginning of the name of a Space on the Hugging Face hub."""
_FOLDER = "TRACKIO_DIR"
"""Variable from which the library takes its folder when it is imported."""


class Trackio:
    """Logs values as `KIND/NAME` at their steps.

    A value that was sent cannot be taken back. Steps that are repeated after a resume or a rollback are not sent
    again. The library writes in a thread of its own, and a killed process loses what waits there. So each attempt asks
    a folder what it holds. What a server has lost stays lost.

    Args:
        sent: file that records what was sent, in the run's folder.
        place: a folder, the URL of a server, or a Space as `hf://spaces/ORG/NAME`.
        project: project of the run.
        name: name of the run. A few characters are added, because the library tells runs apart by their names.
        tags: tags of the run, which are part of its configuration.
        settings: settings of the run, by dotted key.
    """

    recovers: ClassVar[bool] = False

    def __init__(
        self,
        sent: Path,
        *,
        place: Path | Url,
        project: str,
        name: str,
        tags: Sequence[str],
        settings: Mapping[str, Any],
    ) -> None:
        self._sent = SentSteps(sent)
        self._place, self._project, self._name = place, project, name
        self._config = {**settings, "tags": ", ".join(tags)}
        self._run: Any = None

    def restart(self, step: int, records: Sequence[Record]) -> None:
        """Open the run if it is not open, and send the records that it lacks."""
        if self._run is None:
            self._run = self._open()
        for record in records:
            self.write(record)

    def write(self, record: Record) -> None:
        """Send the record's values, unless values of its step were sent before."""
        kind, step = record["kind"], record["step"]
        if self._sent.is_new(kind, step):
            self._run.log({f"{kind}/{name}": value for name, value in numbers(record)}, step=step)
            self._sent.record(kind, step)

    def close(self) -> None:
        """Let the library write what is left."""
        if self._run is not None:
            self._run.finish()

    def _open(self) -> Any:
        if isinstance(self._place, Path):
            os.environ[_FOLDER] = str(self._place.absolute())
        try:
            import trackio
            import trackio.run
            import trackio.utils
        except ImportError:
            raise RuntimeError("the package trackio is missing: pip install 'all4one[trackio]'") from None

        for module in (trackio, trackio.run, trackio.utils):
            # The library prints what it does, between the lines of our progress.
            vars(module)["print"] = _say_nothing
        self._sent.read()
        is_new = not self._sent.id
        if is_new:
            self._sent.begin(f"{self._name}-{secrets.token_hex(2)}")
        elif isinstance(self._place, Path):
            self._sent.replace(_steps_of(self._project, self._sent.id))
        space = str(self._place).removeprefix(SPACES) if str(self._place).startswith(SPACES) else None
        return trackio.init(
            project=self._project,
            name=self._sent.id,
            space_id=space,
            server_url=str(self._place) if isinstance(self._place, Url) and space is None else None,
            config=self._config,
            resume="never" if is_new else "allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )


def _steps_of(project: str, run: str) -> dict[str, int]:
    """Return the last step of each kind of record that the library's folder holds of a run."""
    from trackio.sqlite_storage import SQLiteStorage

    steps: dict[str, int] = {}
    for line in SQLiteStorage.get_logs(project, run):
        for kind in {key.partition("/")[0] for key in line if "/" in key}:
            steps[kind] = max(steps.get(kind, -1), line["step"])
    return steps


def _say_nothing(*_: object, **__: object) -> None:
    pass
