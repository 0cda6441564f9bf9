"""Numbers as people read them, written in one way everywhere."""

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


def duration(seconds: float) -> str:
    """A time in the largest unit of which there are at least two: `119 s`, `5 min`, `30 h`, `3 d`."""
    for unit, length in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def percent(fraction: float | None, *, unit: bool = True) -> str:
    """A fraction in percent with two decimals: `45.74 %`; without the unit in a column that names it; None is empty."""
    if fraction is None:
        return ""
    return f"{100 * fraction:.2f}" + (" %" if unit else "")


def nearest_multiples(number: int, unit: int, *, least: int = 1) -> list[int]:
    """The multiples of `unit` around a number that is none: the next below, if it is `least` units or more, and above.

    Args:
        number: what should divide by `unit`.
        unit: at least 1.
        least: units that are needed at least.
    """
    below, above = number // unit * unit, max(number // unit + 1, least) * unit
    return [multiple for multiple in (below, above) if multiple >= least * unit and multiple != number]
