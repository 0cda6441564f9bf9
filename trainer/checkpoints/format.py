"""The on-disk format of a checkpoint: named full tensors, checksums, no pickle, whole or not there.

checkpoints/latest                   the name of the folder that was written last
checkpoints/step_00001200/           model.safetensors, optimizer.safetensors, state.json, manifest.json
checkpoints/step_00001200.1/         the same step written again: a folder cannot be replaced atomically,
                                     so a rewrite gets the next revision and the old one goes once it is named
checkpoints/suspect-ATTEMPT-NAME/    set aside by an attempt, as it may be corrupt; nothing loads or removes it
checkpoints/.tmp-ATTEMPT-PID-NAME/   being written or being removed; left over if the process was killed
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from data_pipelines.errors import UserError
from data_pipelines.files import sync
from data_pipelines.settings import Settings
from trainer.checkpoints.host_copies import clone_to_host
from trainer.checkpoints.tensor_files import save_tensors

FORMAT = 1
MODEL, OPTIMIZER, STATE, MANIFEST = (
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "manifest.json",
)
RENAMED_TENSORS = {"neighbour_predictor": "neighbor_predictor"}
"""Parts of tensors' names as version 0.1 wrote them, with their names today."""
_HASH_CHUNK = 8 * 2**20  # bytes: large, since each chunk takes the interpreter's lock once


@dataclass(frozen=True)
class Snapshot:
    """All that a run needs to go on: tensors by full name, and what else there is as JSON."""

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


class CheckpointUnreadable(UserError):
    """A checkpoint may be whole, but this process cannot read it because of the file system or its permissions."""


class CheckpointNewer(CheckpointUnreadable):
    """A newer version of this package wrote the checkpoint."""


class _File(Settings):
    size: int
    sha256: str


class Manifest(Settings):
    """What a checkpoint's folder holds, sealed by a checksum of its own."""

    format: int
    step: int
    sequence: int  # rises with every write, whatever the step
    files: dict[str, _File]
    check: str = ""

    def own_check(self) -> str:
        """Checksum over all that the manifest says but this checksum."""
        return hashlib.sha256(self.model_dump_json(exclude={"check"}).encode()).hexdigest()


def write_files(snapshot: Snapshot, folder: Path, sequence: int) -> None:
    """Write the files of a checkpoint into an empty folder, with all bytes on the disk when this returns.

    Args:
        snapshot: what to write.
        folder: exists, and nothing reads it yet.
        sequence: number of this write, which rises with every one.

    Raises:
        OSError, SafetensorError: the disk is full, over quota or not writable.
    """
    save_tensors(_separate(snapshot.model), folder / MODEL)
    save_tensors(_separate(snapshot.optimizer), folder / OPTIMIZER)
    (folder / STATE).write_text(json.dumps(snapshot.state, indent=1))
    manifest = Manifest(
        format=FORMAT,
        step=snapshot.step,
        sequence=sequence,
        files={file: _digest(folder / file) for file in (MODEL, OPTIMIZER, STATE)},
    )
    sealed = manifest.model_copy(update={"check": manifest.own_check()})
    (folder / MANIFEST).write_text(sealed.model_dump_json(indent=1))
    for file in (MODEL, OPTIMIZER, STATE, MANIFEST):
        sync(folder / file)
    sync(folder)


def read_files(folder: Path) -> Snapshot:
    """Read one checkpoint after checking every byte of it. Its tensors are in host memory.

    Raises:
        UserError: a file is missing, cut short or changed; it is named.
    """
    manifest = read_manifest(folder)
    for name in (MODEL, OPTIMIZER, STATE):
        wanted = manifest.files.get(name)
        try:
            found = _digest(folder / name)
        except OSError as error:
            raise _unreadable(folder / name, error) from error
        if wanted is not None and found.size != wanted.size:
            raise _broken(folder / name, f"has {found.size} bytes instead of {wanted.size}")
        if found != wanted:
            raise _broken(folder / name, "differs from its checksum in the manifest")
    # Loaded tensors can be views of the mapped file, which pruning may remove: copies are safe from that.
    try:
        model, optimizer = (
            {_current_name(key): value.clone() for key, value in load_file(folder / name).items()}
            for name in (MODEL, OPTIMIZER)
        )
        state = json.loads((folder / STATE).read_text())
    except OSError as error:
        raise _unreadable(folder, error) from error
    return Snapshot(manifest.step, model, optimizer, state)


def read_state(folder: Path) -> dict[str, Any] | None:
    """The JSON part of a checkpoint; None where it is damaged, or gone meanwhile by the run, which trains."""
    try:
        manifest, content = read_manifest(folder), (folder / STATE).read_bytes()
    except (UserError, OSError):
        return None
    if hashlib.sha256(content).hexdigest() != manifest.files[STATE].sha256:
        return None
    state: dict[str, Any] = json.loads(content)
    return state


def read_manifest(path: Path) -> Manifest:
    """The manifest of a checkpoint's folder. Raises a UserError where it is missing, newer or damaged."""
    file = path / MANIFEST
    try:
        content = json.loads(file.read_bytes())
        if content["format"] > FORMAT:
            raise CheckpointNewer(
                f"was written by a newer version of all4one: it has format {content['format']}, and this version reads "
                f"formats up to {FORMAT}",
                where=file,
                fix="install the newer version, or move this checkpoint elsewhere to use an older one",
            )
        manifest = Manifest.model_validate(content)
    except OSError as error:
        raise _unreadable(file, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise _broken(file, "is not a manifest") from error
    if manifest.check != manifest.own_check():
        raise _broken(file, "differs from its own checksum")
    return manifest


def why_unreadable(path: Path) -> CheckpointUnreadable | None:
    """Return why this process cannot read the manifest of a checkpoint that may be whole.

    None: the manifest can be read, even if it is damaged.
    """
    try:
        read_manifest(path)
    except CheckpointUnreadable as error:
        return error
    except UserError:
        pass
    return None


def follows_broken_steps(state: Mapping[str, Any]) -> bool:
    """Whether the guard skipped the last steps before a checkpoint with this JSON part.

    The run may roll back from such a checkpoint to an earlier one.
    """
    return bool(state.get("guard", {}).get("in_a_row"))


def is_good(folder: Path) -> bool:
    """Whether a run may roll back to a checkpoint."""
    state = read_state(folder)
    return state is not None and not follows_broken_steps(state)


def _current_name(tensor: str) -> str:
    for old, new in RENAMED_TENSORS.items():
        tensor = tensor.replace(old, new)
    return tensor


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors wants them: contiguous, on the host, none sharing memory with another."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        usable = tensor.device.type == "cpu" and tensor.is_contiguous() and storage not in seen
        separate[name] = tensor.detach() if usable else clone_to_host({name: tensor})[name]
        seen.add(storage)
    return separate


def _digest(file: Path) -> _File:
    digest, buffer = hashlib.sha256(), bytearray(_HASH_CHUNK)
    size = 0
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            size += count
    return _File(size=size, sha256=digest.hexdigest())


def _broken(file: Path, what: str) -> UserError:
    return UserError(what, where=file, fix="choose another checkpoint, or restore this file from a backup")


def _unreadable(file: Path, error: OSError) -> UserError:
    """Return the error of a file that could not be read. A missing file is damage; all else may go away by itself."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _broken(file, f"cannot be read ({error.strerror or error})")
    fix = (
        "ask its owner for read permission, for example by chmod g+r on the files of the run"
        if isinstance(error, PermissionError)
        else "check the file system and try again; the checkpoint itself may be whole"
    )
    return CheckpointUnreadable(f"cannot be read ({error.strerror or error})", where=file, fix=fix)


def write_failed(what: str, path: Path, error: Exception) -> UserError:
    """Return the error of a write that failed."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UserError(
        f"{what}: {reason}",
        where=path,
        fix="free space or quota there, and make the folder writable. Earlier checkpoints are not affected, and the "
        "next checkpoint is tried again",
    )
