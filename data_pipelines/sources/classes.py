"""Class names: read from a file, and numbered."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from data_pipelines.errors import UserError

_ONE_EACH = "write one name per line"


def read_classes(path: Path, *, missing_ok: bool = False) -> list[str]:
    """Read class names in the order of their numbers.

    Args:
        path: text file with one name per line.
        missing_ok: whether to return no names if there is no such file.

    Raises:
        UserError: it cannot be read, or names a class twice or none.
    """
    try:
        names = path.read_text("utf-8-sig").splitlines()
    except FileNotFoundError:
        if missing_ok:
            return []
        raise UserError("there is no such file of class names", where=path, fix=_ONE_EACH) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("the class names cannot be read", where=path, fix=_ONE_EACH) from error
    while names and not names[-1].strip():
        names.pop()
    if not missing_ok:
        if not names:
            raise UserError("the file contains no class names", where=path, fix=_ONE_EACH)
        if len(set(names)) < len(names):
            again = next(name for number, name in enumerate(names) if name in names[:number])
            raise UserError(f"the class {again!r} is named twice", where=path, fix=_ONE_EACH)
    return names


def ordered_classes(names: Iterable[str], *, numeric: bool = False) -> list[str]:
    """Return class names in the order of their numbers: sorted as text, or by their values.

    Args:
        names: the names.
        numeric: whether the names are numbers.

    Raises:
        UserError: they are to be sorted by value, and one is not a number.
    """
    found = set(names)
    if not numeric:
        return sorted(found)
    if odd := sorted(name for name in found if not name.isdecimal()):
        raise UserError(
            f"the class {odd[0]!r} is not a number",
            where="--numeric-classes",
            fix="leave out --numeric-classes",
        )
    return sorted(found, key=lambda name: (int(name), name))


def sorts_otherwise(names: Sequence[str]) -> bool:
    """Return whether names that are all numbers have another order as text."""
    return (
        len(names) > 1
        and all(name.isdecimal() for name in names)
        and sorted(names) != sorted(names, key=lambda name: (int(name), name))
    )
