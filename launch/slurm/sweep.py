"""Points of a sweep: every combination of the values of its settings."""

import re
from collections.abc import Sequence
from itertools import product

from data_pipelines.errors import UserError

_MOST = 1000  # SLURM's default limit on the size of an array
_CLOSED_BY = {"[": "]", "{": "}", "(": ")", '"': '"', "'": "'"}


def grid_points(sweeps: Sequence[str]) -> list[list[str]]:
    """Return the `key=value` overrides of each point. The last setting changes fastest.

    Args:
        sweeps: `key=value,value,…`. Commas inside brackets or quotes do not separate values.

    Raises:
        UserError: a sweep does not have this form, names a setting or a value twice, or there are more than 1,000
            points.
    """
    axes: dict[str, list[str]] = {}
    for sweep in sweeps:
        key, separator, text = sweep.partition("=")
        values = listed_values(text)
        if not separator or not key or not all(values):
            raise UserError(
                f"--sweep {sweep!r} is not of the form key=value,value", fix="for example optim.lr=0.3,1.0"
            )
        if key in axes or len(set(values)) < len(values):
            raise UserError(f"--sweep {sweep!r} names {'a value' if key not in axes else key} twice")
        axes[key] = values
    found = [
        [f"{key}={value}" for key, value in zip(axes, values, strict=True)]
        for values in product(*axes.values())
    ]
    if len(found) > _MOST:
        raise UserError(f"this sweep has {len(found)} runs, more than {_MOST}", fix="sweep fewer values")
    return found


def names(grid_points: Sequence[Sequence[str]]) -> list[str]:
    """Return a folder name for each point, such as `lr=0.3,seed=1`. Full keys are used only if short ones are not
    unique."""
    keys = [assignment.partition("=")[0] for assignment in grid_points[0]]
    leaves = [key.rpartition(".")[2] for key in keys]
    shown = leaves if len(set(leaves)) == len(leaves) else keys
    found = [
        ",".join(
            f"{name}={_in_a_path(assignment.partition('=')[2])}"
            for name, assignment in zip(shown, point, strict=True)
        )
        for point in grid_points
    ]
    # Values may differ only in characters that a path must not have.
    return found if len(set(found)) == len(found) else [f"{n:03d},{name}" for n, name in enumerate(found)]


def listed_values(text: str) -> list[str]:
    """Return the values in a list with commas. Commas inside brackets or quotes do not separate them."""
    values, open_until = [""], list[str]()
    for character in text:
        if open_until and character == open_until[-1]:
            open_until.pop()
        elif character in _CLOSED_BY and not (open_until and open_until[-1] in "\"'"):
            open_until.append(_CLOSED_BY[character])
        if character == "," and not open_until:
            values.append("")
        else:
            values[-1] += character
    return [value.strip() for value in values]


def _in_a_path(value: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", value)[:60]
