"""The checkpoints of a run: atomic writes, verified loads, and removal by the keep rules."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from safetensors import SafetensorError

from data_pipelines.errors import UserError
from data_pipelines.files import sync
from data_pipelines.settings import Settings
from trainer.checkpoints.format import Snapshot, read_files, read_manifest, read_state, write_files

LATEST = "latest"
_FOLDER = re.compile(r"step_(\d{8,})(?:\.(\d+))?")
_TEMPORARY = re.compile(r"\.tmp-(\d+)-(\d+)-.+")


class CheckpointSettings(Settings):
    """When to write checkpoints, and which to keep."""

    every_steps: int = Field(0, ge=0)
    """Steps between checkpoints. 0: `every_epochs` decides."""
    every_epochs: float = Field(1.0, ge=0)
    """Epochs between checkpoints if `every_steps` is 0. 0: only when the run ends or is interrupted."""
    keep_last: int = Field(3, ge=1)
    """Number of newest checkpoints to keep."""
    keep_every: int = Field(0, ge=0)
    """Checkpoints at multiples of this many steps are kept permanently. 0: none."""

    def interval(self, steps_per_epoch: int) -> int:
        """Steps between checkpoints; 0: none during the run."""
        if self.every_steps or not self.every_epochs:
            return self.every_steps
        return max(1, round(self.every_epochs * steps_per_epoch))


@dataclass(frozen=True)
class Loaded:
    """A loaded checkpoint, and the newer broken ones that were skipped, each with the reason."""

    snapshot: Snapshot
    path: Path
    skipped: list[tuple[Path, str]]


class CheckpointStore:
    """The checkpoints of one run. One process writes them, and any process may load them."""

    def __init__(
        self, folder: Path, *, attempt: int | None = None, keep_last: int = 3, keep_every: int = 0
    ) -> None:
        """Open the folder. For writing, create it and remove the leftovers of killed attempts.

        Args:
            folder: folder of the checkpoints.
            attempt: number of this attempt at the run, which increases with each attempt. None: read only.
            keep_last: number of newest checkpoints to keep, at least 1.
            keep_every: checkpoints at multiples of this many steps are kept too. 0: none.

        Raises:
            UserError: the folder cannot be created or read.
        """
        self.folder, self.attempt = folder, attempt
        self.keep_last, self.keep_every = keep_last, keep_every
        self._broken: set[Path] = set()
        if attempt is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                left = _TEMPORARY.fullmatch(path.name)
                if left and int(left[1]) < attempt:
                    _remove(path)
        except OSError as error:
            raise _failed("the checkpoint folder cannot be opened", folder, error) from error

    def write(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint, name it in `latest`, and remove the checkpoints that the keep rules no longer keep.

        The bytes are on the disk before the folder gets its name, and the folder has its name before `latest` points to
        it. If the process is killed at any time, every named checkpoint is complete.

        Raises:
            UserError: the disk is full, over quota or not writable. Earlier checkpoints are not affected.
        """
        if self.attempt is None:
            raise ValueError("this store was opened to read only")
        name = self._free_name(snapshot.step)
        temporary, path = self._temporary(name), self.folder / name
        try:
            earlier = self._by_age()
            _remove(temporary)
            temporary.mkdir()
            write_files(snapshot, temporary, 1 + max((sequence for sequence, _ in earlier), default=0))
            temporary.rename(path)
            sync(self.folder)
            self._name_latest(path)
        except (OSError, SafetensorError) as error:
            raise _failed(
                f"the checkpoint of step {snapshot.step} could not be written", path, error
            ) from error
        finally:
            _remove(temporary)
        self._prune(path, [older for _, older in earlier], self.keep_last + snapshot.after_broken_steps)
        return path

    def load_newest(self) -> Loaded | None:
        """Load the newest checkpoint whose files all match its manifest. Return None if there is no checkpoint.

        Raises:
            UserError: there are checkpoints, but none of them is valid.
        """
        skipped: list[tuple[Path, str]] = []
        aged = {path: sequence for sequence, path in self._by_age()}
        unaged = [path for path in sorted(self._folders(), key=_key, reverse=True) if path not in aged]
        for path in [*unaged, *sorted(aged, key=lambda path: aged[path], reverse=True)]:
            try:
                return Loaded(self.load(path), path, skipped)
            except UserError as error:
                if not path.is_dir():  # a training run has removed it meanwhile and written another
                    return self.load_newest()
                skipped.append((path, f"{error.where}: {error.what}"))
                self._broken.add(path)
        if skipped:
            raise UserError(
                "no checkpoint is valid: " + "; ".join(reason for _, reason in skipped),
                where=self.folder,
                fix="restore one from a backup, or remove the folder to start from the beginning",
            )
        return None

    def load(self, path: Path) -> Snapshot:
        """Read one checkpoint, as `read_files` does."""
        return read_files(path)

    def newest_state(self) -> dict[str, Any] | None:
        """Return the JSON part of the newest checkpoint of `states`, or None if there is none."""
        return next((state for _, state in self.states()), None)

    def newest_step(self) -> int:
        """Return the step of the newest checkpoint of `states`, or 0 if there is none."""
        return int((self.newest_state() or {"step": 0})["step"])

    def states(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield every checkpoint with its JSON part, newest first.

        Checkpoints with a damaged JSON part are skipped. Damaged tensors are detected only on loading.
        """
        for _, path in reversed(self._by_age()):
            if (state := read_state(path)) is not None:
                yield path, state

    def go_back_to(self, kept: Path) -> None:
        """Make a checkpoint the latest, and remove those of later steps. Checkpoints that cannot be removed stay."""
        with suppress(OSError):
            self._name_latest(kept)
        with suppress(OSError):
            for path in self._folders():
                if _key(path)[0] > _key(kept)[0]:
                    with suppress(OSError):
                        self._bury(path)

    def _folders(self) -> list[Path]:
        paths = self.folder.iterdir() if self.folder.is_dir() else []
        return [path for path in paths if _FOLDER.fullmatch(path.name) and path.is_dir()]

    def _free_name(self, step: int) -> str:
        revisions = [_key(path)[1] for path in self._folders() if _key(path)[0] == step]
        return f"step_{step:08d}" + (f".{max(revisions) + 1}" if revisions else "")

    def _by_age(self) -> list[tuple[int, Path]]:
        """Return (sequence, path) of every checkpoint that is not known to be broken, oldest first."""
        aged = []
        for path in set(self._folders()) - self._broken:
            with suppress(UserError, OSError):
                manifest = read_manifest(path)
                if all((path / name).stat().st_size == f.size for name, f in manifest.files.items()):
                    aged.append((manifest.sequence, path))
        return sorted(aged)

    def _temporary(self, name: str) -> Path:
        return self.folder / f".tmp-{self.attempt}-{os.getpid()}-{name}"

    def _name_latest(self, path: Path) -> None:
        temporary = self._temporary(LATEST)
        temporary.write_text(path.name + "\n")
        sync(temporary)
        temporary.replace(self.folder / LATEST)
        sync(self.folder)

    def _prune(self, newest: Path, earlier: list[Path], keep_last: int) -> None:
        """Remove the checkpoints that the keep rules do not keep. `newest` was just written; `earlier` is oldest
        first."""
        older = [path for path in earlier if _key(path)[0] != _key(newest)[0]]
        kept = {newest, *older[len(older) - min(len(older), keep_last - 1) :]}
        if self.keep_every:
            kept |= {path for path in older if _key(path)[0] % self.keep_every == 0}
        for path in self._folders():
            if path not in kept:
                try:
                    self._bury(path)
                except OSError as error:
                    raise _failed("an old checkpoint could not be removed", path, error) from error

    def _bury(self, path: Path) -> None:
        """Remove a checkpoint. It is renamed first, so that its remains are not mistaken for a checkpoint."""
        grave = self._temporary(path.name)
        path.rename(grave)
        _remove(grave)


def _key(path: Path) -> tuple[int, int]:
    """Return (step, revision) from the name of a checkpoint's folder."""
    match = _FOLDER.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def _remove(path: Path) -> None:
    """Remove a file or folder if possible. What remains has a temporary name and is removed by the next attempt."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _failed(what: str, path: Path, error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UserError(
        f"{what}: {reason}",
        where=path,
        fix="free space or quota there, and make the folder writable. Earlier checkpoints are not affected, and the "
        "next checkpoint is tried again",
    )
