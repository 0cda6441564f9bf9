"""Which values a service has received. It keeps what it gets, so a repeated step must not be sent again."""

import json
from pathlib import Path
from typing import Any

from data_pipelines.files import write_whole


class SentSteps:
    """The id of a run at a service, and the last step that was sent of each kind of record, in a file.

    Args:
        path: the file, in the folder of the run. Every attempt reads it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._steps: dict[str, int] = {}
        self.id = ""
        """The id of the run. Empty: the service does not know it yet."""

    def read(self) -> None:
        """Take over what earlier attempts have written, if there were any."""
        if self._path.is_file():
            state: dict[str, Any] = json.loads(self._path.read_text())
            self.id, self._steps = state["id"], state["steps"]

    def begin(self, run_id: str) -> None:
        """Record the id of a new run."""
        self.id = run_id
        self._write()

    def replace(self, steps: dict[str, int]) -> None:
        """Take over the last step of each kind that the service itself tells."""
        self._steps = dict(steps)
        self._write()

    def is_new(self, kind: str, step: int) -> bool:
        """Whether no values of this step, and of none after it, were sent."""
        return step > self._steps.get(kind, -1)

    def record(self, kind: str, step: int) -> None:
        """Record that all values of this kind are sent up to a step."""
        self._steps[kind] = step
        self._write()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, json.dumps({"id": self.id, "steps": self._steps}).encode())
