"""Event files for TensorBoard."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from data_pipelines.yaml_writer import dump_yaml
from trainer.monitoring.writers.base import Record, numbers


class TensorBoard:
    """Writes scalars as `KIND/NAME`, and the configuration as text and as hyperparameters.

    Args:
        folder: folder of the event files.
        name: name of the run.
        config: the configuration, nested.
        settings: the settings that are hyperparameters, by dotted key.
    """

    recovers: ClassVar[bool] = False

    def __init__(
        self, folder: Path, name: str, config: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> None:
        self._folder, self._name, self._config, self._settings = folder, name, config, settings
        self._writer: Any = None

    def restart(self, step: int, records: Sequence[Record]) -> None:
        """Begin a new file. Its scalars replace those that earlier files have for later steps."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        if self._writer is not None:
            self._writer.close()
        self._writer = SummaryWriter(str(self._folder), purge_step=step + 1)
        text = dump_yaml(self._config)
        self._writer.add_text(self._name, "".join(f"    {line}\n" for line in text.splitlines()), step)
        single = {k: v for k, v in self._settings.items() if isinstance(v, bool | int | float | str)}
        for summary in hparams(single, {"train/loss": 0.0, "eval/knn_online": 0.0}):
            self._writer.file_writer.add_summary(summary)

    def write(self, record: Record) -> None:
        """Add the record's values at its step."""
        for name, value in numbers(record):
            self._writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])

    def close(self) -> None:
        """Flush the files."""
        if self._writer is not None:
            self._writer.close()
