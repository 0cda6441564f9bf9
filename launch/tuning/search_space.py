"""The settings that a search varies, and their values."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data_pipelines.errors import UserError
from launch.slurm.sweep import listed_values

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(:log)?")
_EXAMPLES = "for example optim.lr=0.1..3.0:log, method.num_neighbors=2..10 or optim.name=lars,adamw"


@dataclass(frozen=True)
class Dimension:
    """One setting and its values: a range of numbers, or a list of choices.

    A range of whole numbers, written without a point, gives whole numbers.
    """

    key: str
    """Dotted key of the setting."""
    text: str
    """The values as the user wrote them."""
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    """Whether values are drawn on a logarithmic scale."""
    is_whole: bool = False
    choices: tuple[str, ...] = ()

    def suggest(self, trial: Any) -> str:
        """Return `key=value` with the value that Optuna suggests to a trial. Asked again, it is the same value."""
        if self.choices:
            value = trial.suggest_categorical(self.key, list(self.choices))
        elif self.is_whole:
            value = trial.suggest_int(self.key, int(self.low), int(self.high), log=self.is_log)
        else:
            value = trial.suggest_float(self.key, self.low, self.high, log=self.is_log)
        return f"{self.key}={value}"

    @property
    def ends(self) -> tuple[str, ...]:
        """The values that are checked before the search: all choices, or both ends of the range."""
        if self.choices:
            return self.choices
        return tuple(str(int(end) if self.is_whole else end) for end in (self.low, self.high))


def read_space(texts: Sequence[str]) -> list[Dimension]:
    """Read the dimensions of a search.

    Args:
        texts: `key=low..high`, `key=low..high:log` or `key=value,value,…`.

    Raises:
        UserError: a text does not have one of these forms, a range is empty, or a setting is named twice.
    """
    found: dict[str, Dimension] = {}
    for text in texts:
        key, _, values = text.partition("=")
        if not key or not values:
            raise UserError(f"--search {text!r} gives no values", fix=_EXAMPLES)
        if key in found:
            raise UserError(f"--search names {key} twice", fix="give all of its values at once")
        found[key] = _dimension(key, values, text)
    if not found:
        raise UserError("a search needs at least one setting to vary", where="--search", fix=_EXAMPLES)
    return list(found.values())


def _dimension(key: str, values: str, text: str) -> Dimension:
    match = _RANGE.fullmatch(values)
    if match is None:
        if ".." in values:
            raise UserError(f"--search {text!r} is no range of numbers", fix=_EXAMPLES)
        choices = listed_values(values)
        if not all(choices) or len(set(choices)) < len(choices):
            raise UserError(f"--search {text!r} has an empty value, or one twice", fix=_EXAMPLES)
        if len(choices) < 2:
            raise UserError(
                f"--search {text!r} has only one value",
                fix=f"give more values, or set it for all trials: {text}",
            )
        return Dimension(key, values, choices=tuple(choices))
    low, high, is_log = float(match[1]), float(match[2]), bool(match[3])
    if low >= high:
        raise UserError(f"--search {text!r} is empty: the lower end comes first", fix=_EXAMPLES)
    if is_log and low <= 0:
        raise UserError(f"--search {text!r} is logarithmic, so both ends must be above 0", fix=_EXAMPLES)
    is_whole = all(re.fullmatch(r"[+-]?\d+", end) for end in (match[1], match[2]))
    return Dimension(key, values, low, high, is_log, is_whole)
