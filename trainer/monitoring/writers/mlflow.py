"""MLflow: one run with the name of this run, which every attempt continues."""

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from trainer.monitoring.writers.base import Record, numbers
from trainer.monitoring.writers.sent_steps import SentSteps

_MOST_PER_REQUEST = 100
"""Limit of MLflow for the parameters of a request. That for metrics is 1,000, more than a record has."""
_LONGEST_PARAMETER = 6000
"""Limit of MLflow for the value of a parameter, in characters."""


_USUAL = {
    "MLFLOW_ALLOW_FILE_STORE": "true",  # The library refuses folders otherwise.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # The next record is a further try.
}
"""Settings of the library, unless the environment has others."""


class MLflow:
    """Logs values as `KIND/NAME` at their steps, and the settings as parameters.

    A value that was sent cannot be taken back. Steps that are repeated after a resume or a rollback are not sent
    again. Records that could not be sent wait, and go with a later one.

    Args:
        sent: file that records what was sent, in the run's folder.
        place: a folder, or the URL of a tracking server or a database.
        experiment: experiment of the run, which is created if it does not exist.
        name: name of the run.
        tags: tags of the run. Each is a tag with the value `true`.
        settings: settings of the run, by dotted key.
    """

    recovers: ClassVar[bool] = True

    def __init__(
        self,
        sent: Path,
        *,
        place: str | Path,
        experiment: str,
        name: str,
        tags: Sequence[str],
        settings: Mapping[str, Any],
    ) -> None:
        self._sent = SentSteps(sent)
        self._place, self._experiment, self._name = place, experiment, name
        self._tags, self._settings = dict.fromkeys(tags, "true"), dict(settings)
        self._client: Any = None
        self._waiting: deque[Record] = deque()

    def restart(self, step: int, records: Sequence[Record]) -> None:
        """Open the run if it is not open, and send the records that were not sent before."""
        self._waiting = deque(records)
        self._send()

    def write(self, record: Record) -> None:
        """Send the record's values, unless values of its step were sent before."""
        self._waiting.append(record)
        self._send()

    def close(self) -> None:
        """Mark the run as ended. The next attempt opens it again."""
        self._send()
        self._client.set_terminated(self._sent.id)

    def _send(self) -> None:
        if self._client is None:
            self._client = self._open()
        from mlflow.entities import Metric

        while self._waiting:
            kind, step = self._waiting[0]["kind"], self._waiting[0]["step"]
            if self._sent.is_new(kind, step):
                now = round(1000 * time.time())
                values = [
                    Metric(f"{kind}/{name}", float(value), now, step)
                    for name, value in numbers(self._waiting[0])
                    if isinstance(value, int | float)
                ]
                self._client.log_batch(self._sent.id, metrics=values)
                self._sent.record(kind, step)
            self._waiting.popleft()

    def _open(self) -> Any:
        try:
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise RuntimeError("the package mlflow is missing: pip install 'all4one[mlflow]'") from None

        os.environ.update(_USUAL | os.environ)
        place = self._place.absolute().as_uri() if isinstance(self._place, Path) else self._place
        client = MlflowClient(tracking_uri=place)
        self._sent.read()
        if self._sent.id:
            client.update_run(self._sent.id, status="RUNNING")
        else:
            self._sent.begin(self._create(client))
        self._log_parameters(client)
        return client

    def _create(self, client: Any) -> str:
        """Create the run and return its id."""
        known = client.get_experiment_by_name(self._experiment)
        experiment = known.experiment_id if known else client.create_experiment(self._experiment)
        run_id: str = client.create_run(experiment, run_name=self._name, tags=self._tags).info.run_id
        return run_id

    def _log_parameters(self, client: Any) -> None:
        """Send the parameters that the run lacks. The service lets none of them change."""
        from mlflow.entities import Param

        known = client.get_run(self._sent.id).data.params
        lacking = [
            Param(key, str(value)[:_LONGEST_PARAMETER])
            for key, value in self._settings.items()
            if key not in known
        ]
        for i in range(0, len(lacking), _MOST_PER_REQUEST):
            client.log_batch(self._sent.id, params=lacking[i : i + _MOST_PER_REQUEST])
