"""The names of checkpoints' folders. Loads no torch."""

import re
from pathlib import Path

FOLDER = re.compile(r"step_(\d{8,})(?:\.(\d+))?")
"""The name of a checkpoint's folder: its step, and a revision if the step was written again."""


def step_and_revision(path: Path) -> tuple[int, int]:
    """Return (step, revision) from the name of a checkpoint's folder."""
    match = FOLDER.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder in no order, whatever their state."""
    paths = folder.iterdir() if folder.is_dir() else []
    return [path for path in paths if FOLDER.fullmatch(path.name) and path.is_dir()]


def free_name(folder: Path, step: int) -> str:
    """Return a name for a checkpoint of a step that no checkpoint in the folder has."""
    revisions = [
        step_and_revision(path)[1] for path in list_checkpoints(folder) if step_and_revision(path)[0] == step
    ]
    return f"step_{step:08d}" + (f".{max(revisions) + 1}" if revisions else "")
