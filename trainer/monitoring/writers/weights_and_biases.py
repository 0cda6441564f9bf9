"""Weights & Biases: one run with the name of this run, which every attempt continues."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from trainer.monitoring.writers.base import Record, numbers
from trainer.monitoring.writers.sent_steps import SentSteps


class WeightsAndBiases:
    """Logs values as `KIND/NAME` over `step`.

    A value that was sent cannot be taken back. `sent.json` in the folder of the library's files records what was sent.
    Steps that are repeated after a resume or a rollback are not sent again.

    Args:
        folder: folder to which the library writes, `wandb` in the run's folder.
        project: project of the run.
        name: name of the run.
        tags: tags of the run.
        mode: `offline` only writes files, which `wandb sync` sends later.
        config: the configuration, nested.
    """

    recovers: ClassVar[bool] = False

    def __init__(
        self,
        folder: Path,
        *,
        project: str,
        name: str,
        tags: Sequence[str],
        mode: Literal["offline", "online"],
        config: Mapping[str, Any],
    ) -> None:
        self._folder, self._project, self._name, self._tags = folder, project, name, list(tags)
        self._mode, self._config = mode, dict(config)
        self._run: Any = None
        self._sent = SentSteps(folder / "sent.json")

    def restart(self, step: int, records: Sequence[Record]) -> None:
        """Open the run if it is not open, and send the records that earlier attempts did not send. They may have had
        no network, or this writer was not enabled.
        """
        if self._run is None:
            self._begin()
        for record in records:
            self.write(record)

    def write(self, record: Record) -> None:
        """Send the record's values, unless values of its step were sent before."""
        kind, step = record["kind"], record["step"]
        if self._sent.is_new(kind, step):
            self._run.log({"step": step, **{f"{kind}/{name}": value for name, value in numbers(record)}})
            self._sent.record(kind, step)

    def close(self) -> None:
        """Let the library send what is left."""
        if self._run is not None:
            self._run.finish()

    def _begin(self) -> None:
        self._sent.read()
        if not self._sent.id:
            self._sent.begin(secrets.token_hex(8))
        self._run = self._open()
        self._run.define_metric("*", step_metric="step")

    def _open(self) -> Any:
        try:
            import wandb
        except ImportError:
            raise RuntimeError("the package wandb is missing: pip install 'all4one[wandb]'") from None

        # Check the login here, because `init` would ask for a key at the terminal.
        if self._mode == "online" and not wandb.login(prompt=False, verify=False):
            raise RuntimeError("no account is configured: run `wandb login` once, or set WANDB_API_KEY")
        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, save_code=False, init_timeout=30, finish_timeout=10
        )
        return wandb.init(
            project=self._project,
            name=self._name,
            tags=self._tags,
            id=self._sent.id,
            mode=self._mode,
            resume="allow" if self._mode == "online" else None,
            config=self._config,
            dir=self._folder.parent,
            settings=settings,
        )
