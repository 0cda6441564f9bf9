"""Human-readable numbers and names in one format everywhere."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


def duration(seconds: float) -> str:
    """Format a time in the largest unit that gives a value of at least 2: `119 s`, `5 min`, `30 h`, `3 d`."""
    for unit, length in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def percent(fraction: float | None, *, unit: bool = True) -> str:
    """Format a fraction in percent with two decimals, such as `45.74 %`. None gives an empty string.

    Pass `unit=False` for a table column whose header names the unit.
    """
    if fraction is None:
        return ""
    return f"{100 * fraction:.2f}" + (" %" if unit else "")


def nearest_multiples(number: int, unit: int, *, least: int = 1) -> list[int]:
    """Return the nearest multiples of `unit` below and above a number. The lower one is left out if it is below `least`
    units.

    Args:
        number: number that should be a multiple of `unit`.
        unit: at least 1.
        least: minimum number of units.
    """
    below, above = number // unit * unit, max(number // unit + 1, least) * unit
    return [multiple for multiple in (below, above) if multiple >= least * unit and multiple != number]


def readable(name: str | Path) -> str:
    """Return a file name as text that can be written anywhere. Bytes that are not UTF-8 become `\\xNN`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def counted(counts: Mapping[str, int], *, limit: int = 8) -> str:
    """Format counts by name, the largest first: `.txt 40, .json 3`."""
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    shown = [f"{name} {count:,}" for name, count in ordered[:limit]]
    return ", ".join([*shown, f"{len(ordered) - limit} others"] if len(ordered) > limit else shown)


def amount(number: int, one: str, more: str) -> str:
    """Format a number with the words that follow it: `amount(1, "file is", "files are")` gives `1 file is`."""
    return f"{number:,} {one if number == 1 else more}"


def quoted(path: Path | str) -> str:
    """Return a path or a URL as a shell takes it in a command."""
    return shlex.quote(str(path))
