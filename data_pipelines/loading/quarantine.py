"""Counts bad samples during a run, and stops the run if there are too many."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.masking import masked_values

_TOLERATED = 8
"""Bad samples that are always allowed if any are. Early in a run, one bad sample is a large fraction of those seen."""


class TooManyBadSamples(UserError):
    """More samples are bad than `data.max_bad_fraction` allows."""


class Quarantine:
    """Counts the bad samples of one rank.

    Args:
        max_fraction: fraction of the seen samples that may be bad. 0 allows none.
        path: JSON-lines file to which each bad sample is appended once by this rank and attempt. None: no file.
    """

    def __init__(self, max_fraction: float, path: Path | None) -> None:
        self._max_fraction, self._path = max_fraction, path
        self.seen = 0
        """Number of samples requested so far."""
        self.bad = 0
        """Number of samples replaced so far. A sample that is bad in two epochs counts twice."""
        self._named: set[str] = set()

    def note(self, seen: int, bad: dict[str, str], *, epoch: int, step: int) -> None:
        """Count one batch.

        Args:
            seen: samples of the batch.
            bad: reason for each bad sample, by `SHARD.tar/KEY`.
            epoch: epoch of the batch.
            step: global step of the batch.

        Raises:
            TooManyBadSamples: the fraction of bad samples is above the limit.
        """
        self.seen += seen
        self.bad += len(bad)
        self._record(bad, epoch, step)
        self._require_few(bad)

    def note_shards(self, failed: Mapping[str, str], *, epoch: int, step: int) -> None:
        """Record shards that failed as a whole, with an empty key. They do not count as bad samples.

        Args:
            failed: reason for each shard, by name.
            epoch: epoch of the batch.
            step: global step of the batch.
        """
        self._record(failed, epoch, step)

    def _record(self, bad: Mapping[str, str], epoch: int, step: int) -> None:
        for name, reason in bad.items():
            if name in self._named:
                continue
            shard, key = _split(name)
            entry = {"key": key, "shard": shard, "reason": reason, "epoch": epoch, "step": step}
            # a full disk does not stop training: the sample is replaced, and recorded when it comes again
            with suppress(OSError):
                self._write(json.dumps(masked_values(entry)) + "\n")
                self._named.add(name)

    def _write(self, line: str) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(line)

    def _require_few(self, bad: dict[str, str]) -> None:
        limit = max(self._max_fraction * self.seen, _TOLERATED if self._max_fraction > 0 else 0)
        if bad and self.bad > limit:
            name, reason = next(iter(bad.items()))
            raise TooManyBadSamples(
                f"{self.bad} of {self.seen} samples could not be used. The last reason: {reason}",
                where=name,
                fix="check the shards with `all4one data verify FOLDER --decode`, or raise data.max_bad_fraction",
            )


def _split(name: str) -> tuple[str, str]:
    """Return shard and key of `SHARD.tar/KEY`. The shards of a mix begin with the folder of their set, and the shards
    of a stream may have another suffix."""
    shard, tar, key = name.partition(".tar/")
    if tar:
        return f"{shard}.tar", key
    shard, _, key = name.partition("/")
    return shard, key
