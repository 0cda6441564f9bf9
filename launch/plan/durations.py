"""Durations and numbers as a user writes them: `500h`, `90s`, `0.35s`, `350ms`."""

import re

from data_pipelines.errors import UserError

_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", re.IGNORECASE)


def parse_duration(text: str, option: str) -> float:
    """Return a duration in seconds.

    Args:
        text: a number with a unit: `ms`, `s`, `min`, `h` or `d`.
        option: name of the option, for the message.

    Raises:
        UserError: it is not a duration.
    """
    match = _DURATION.fullmatch(text.strip())
    unit = _SECONDS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise UserError(
            f"{text!r} is not a duration",
            where=option,
            fix=f"give a number with a unit ({', '.join(u for u in _SECONDS if u != 'm')}), such as {option}=90s or "
            f"{option}=500h",
        )
    return float(match[1]) * unit
