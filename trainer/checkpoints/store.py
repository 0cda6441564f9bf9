"""The checkpoints of a run: atomic writes, verified loads, and removal by the keep rules."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from data_pipelines.errors import UserError
from data_pipelines.files import remove_if_possible, sync
from data_pipelines.prefetch import nothing
from trainer.checkpoints.folder_names import free_name, list_checkpoints, step_and_revision
from trainer.checkpoints.format import (
    CheckpointNewer,
    CheckpointUnreadable,
    Snapshot,
    follows_broken_steps,
    is_good,
    read_files,
    read_state,
    why_unreadable,
    write_failed,
    write_files,
)
from trainer.checkpoints.keep_rules import kept
from trainer.checkpoints.listing import by_age, newest_first

LATEST = "latest"
_TEMPORARY = re.compile(r"\.tmp-(\d+)-(\d+)-.+")
_ATTEMPT_SHIFT = 20
"""Sequence numbers of attempt a begin at a << 20, so those of a later attempt are always higher. Version 0.1 counted
from 1 over all attempts, so its numbers are lower than all of these."""


@dataclass(frozen=True)
class Loaded:
    """A loaded checkpoint, and the newer broken ones that were skipped, each with the reason."""

    snapshot: Snapshot
    path: Path
    skipped: list[tuple[Path, str]]


class CheckpointStore:
    """The checkpoints of one run. One process writes them, and any process may load them."""

    def __init__(
        self,
        folder: Path,
        *,
        attempt: int | None = None,
        keep_last: int = 3,
        keep_every: int = 0,
        values: Callable[[], Mapping[int, float]] = dict,
        require_lock: Callable[[], None] = nothing,
    ) -> None:
        """Open the folder. For writing, create it and remove the leftovers of killed attempts.

        Args:
            folder: folder of the checkpoints.
            attempt: number of this attempt at the run, which increases with each attempt. None: read only.
            keep_last: number of newest checkpoints to keep, at least 1.
            keep_every: checkpoints at multiples of this many steps are kept too. 0: none.
            values: returns the evaluated values by step. The checkpoint with the best one is kept too.
            require_lock: raises a UserError if another process has taken over the run. It is called before every change
                that others can see, because a process may be stopped for hours between two instructions.

        Raises:
            UserError: the folder cannot be created or read.
        """
        self.folder, self.attempt = folder, attempt
        self.keep_last, self.keep_every = keep_last, keep_every
        self.trusted = -1
        """Last step at which all ranks were equal. The newest checkpoint up to it is kept. -1: none."""
        self._values, self._require_lock = values, require_lock
        self._broken: set[Path] = set()
        if attempt is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                left = _TEMPORARY.fullmatch(path.name)
                if left and int(left[1]) < attempt:
                    remove_if_possible(path)
        except OSError as error:
            raise write_failed("the checkpoint folder cannot be opened", folder, error) from error

    def write(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint, name it in `latest`, and remove the checkpoints that the keep rules no longer keep.

        The bytes are on the disk before the folder gets its name, and the folder has its name before `latest` points to
        it. If the process is killed at any time, every named checkpoint is complete.

        Raises:
            UserError: the disk is full, over quota or not writable, or another process has taken over the run. Earlier
                checkpoints and those of the other process are not affected.
        """
        if self.attempt is None:
            raise ValueError("this store was opened to read only")
        name = free_name(self.folder, snapshot.step)
        temporary, path = self._temporary(name), self.folder / name
        try:
            self._require_lock()
            before = list_checkpoints(self.folder)
            earlier = self._by_age()
            sequence = self._next_sequence(earlier)
            remove_if_possible(temporary)
            temporary.mkdir()
            write_files(snapshot, temporary, sequence)
            self._require_lock()
            temporary.rename(path)
            sync(self.folder)
            self._name_latest(path)
        except (OSError, SafetensorError) as error:
            self._require_lock()  # the process that has taken over removes the unfinished files of this one
            raise write_failed(
                f"the checkpoint of step {snapshot.step} could not be written", path, error
            ) from error
        finally:
            remove_if_possible(temporary)
        keep = kept(
            path,
            [older for _, older in earlier],
            keep_last=self.keep_last,
            keep_every=self.keep_every,
            is_good=is_good if follows_broken_steps(snapshot.state) else None,
            trusted=self.trusted,
            values=self._values(),
        )
        self._prune([older for older in before if older not in keep])
        return path

    def load_newest(self) -> Loaded | None:
        """Load the newest checkpoint whose files all match its manifest. Return None if there is no checkpoint.

        Raises:
            UserError: there are checkpoints, but none of them is valid, or this process may not read the newest one, or
                a newer version has written it.
        """
        skipped: list[tuple[Path, str]] = []
        unreadable = False
        for path in newest_first(self.folder, broken=self._broken):
            try:
                return Loaded(self.load(path), path, skipped)
            except UserError as error:
                if not path.is_dir():  # a training run has removed it meanwhile and written another
                    return self.load_newest()
                # an older one would lose work without need
                if isinstance(error, CheckpointNewer) or isinstance(error.__cause__, PermissionError):
                    raise
                unreadable |= isinstance(error, CheckpointUnreadable)
                skipped.append((path, f"{error.where}: {error.what}"))
                self._broken.add(path)
        if skipped:
            raise UserError(
                "no checkpoint is valid: " + "; ".join(reason for _, reason in skipped),
                where=self.folder,
                fix="check the file system and try again, because the files may be whole"
                if unreadable
                else "restore one from a backup, or remove the folder and train again from step 0: "
                "all4one resume RUN --from-scratch",
            )
        return None

    def load(self, path: Path) -> Snapshot:
        """Read one checkpoint, as `read_files` does."""
        return read_files(path)

    def require_readable(self) -> None:
        """Raise the error of a checkpoint that may be whole, and that this process cannot read, if there is one."""
        for path in sorted(list_checkpoints(self.folder), key=step_and_revision, reverse=True):
            if (error := why_unreadable(path)) is not None:
                raise error

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
            for path in list_checkpoints(self.folder):
                if step_and_revision(path)[0] > step_and_revision(kept)[0]:
                    with suppress(OSError):
                        self._bury(path)

    def set_aside(self, step: int) -> list[Path]:
        """Rename the checkpoints of later steps, so that nothing loads them. The newest other one becomes the latest.

        Returns the new paths. Checkpoints that cannot be renamed stay.
        """
        later = sorted(p for p in list_checkpoints(self.folder) if step_and_revision(p)[0] > step)
        left = next((path for path, _ in self.states() if path not in later), None)
        with suppress(OSError):
            self._require_lock()
            if left is None:
                (self.folder / LATEST).unlink()
            else:
                self._name_latest(left)
        moved = []
        for path in later:
            self._require_lock()
            with suppress(OSError):
                moved.append(path.rename(self.folder / f"suspect-{self.attempt}-{path.name}"))
        return moved

    def _by_age(self) -> list[tuple[int, Path]]:
        """Return (sequence, path) of every checkpoint that is not known to be broken, oldest first."""
        return by_age(self.folder, broken=self._broken)

    def _next_sequence(self, earlier: list[tuple[int, Path]]) -> int:
        """Return the sequence number of the next write.

        Raises:
            UserError: a later attempt has written checkpoints.
        """
        assert self.attempt is not None
        newest, path = max(earlier, default=(0, self.folder))
        if newest >> _ATTEMPT_SHIFT > self.attempt:
            raise UserError(
                f"a later attempt has written checkpoints, so attempt {self.attempt} writes none",
                where=path,
                fix="nothing: the run continues there",
            )
        return max(self.attempt << _ATTEMPT_SHIFT, newest + 1)

    def _temporary(self, name: str) -> Path:
        return self.folder / f".tmp-{self.attempt}-{os.getpid()}-{name}"

    def _name_latest(self, path: Path) -> None:
        """Point `latest` to a checkpoint.

        If this process is stopped before the last rename and another one takes over meanwhile, the rename would move
        `latest` back. It is therefore moved on to the checkpoints of later attempts, if there are any.
        """
        assert self.attempt is not None
        self._require_lock()
        named: Path | None = None
        while named != path:
            temporary = self._temporary(LATEST)
            temporary.write_text(path.name + "\n")
            sync(temporary)
            temporary.replace(self.folder / LATEST)
            sync(self.folder)
            named = path
            later = [p for sequence, p in self._by_age() if sequence >> _ATTEMPT_SHIFT > self.attempt]
            path = later[-1] if later else path

    def _prune(self, superseded: list[Path]) -> None:
        for path in superseded:
            try:
                if why_unreadable(path) is None:
                    self._bury(path)
            except FileNotFoundError:
                self._require_lock()
            except OSError as error:
                self._require_lock()
                raise write_failed("an old checkpoint could not be removed", path, error) from error

    def _bury(self, path: Path) -> None:
        """Remove a checkpoint. It is renamed first, so that its remains are not mistaken for a checkpoint.

        If this process was stopped before the rename and another one has taken over meanwhile, that one may need the
        checkpoint. It then gets its name back.
        """
        self._require_lock()
        grave = self._temporary(path.name)
        path.rename(grave)
        try:
            self._require_lock()
        except UserError:
            with suppress(OSError):  # the process that has taken over found it without a name and removed it
                grave.rename(path)
            raise
        remove_if_possible(grave)
