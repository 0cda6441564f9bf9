"""Options under their earlier names, which still work but are not listed."""

import sys
from typing import Any, TypeVar

import typer

Value = TypeVar("Value")


def earlier_name(name: str) -> Any:
    """Declare the earlier name of an option."""
    return typer.Option(name, hidden=True)


def value_of(new: Value, earlier: Value, *, was: str, now: str) -> Value:
    """Return the value of an option, and print one line if it was given by its earlier name.

    Args:
        new: the value that was given by the name of today, or the default.
        earlier: the value that was given by the earlier name. None or False: it was not given.
        was: the earlier name.
        now: the option of today.
    """
    if not earlier:
        return new
    print(f"notice: {was} is now {now} (the old name still works)", file=sys.stderr)
    return new or earlier
