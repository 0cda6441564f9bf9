"""SLURM's short form of a list of nodes: `node[1-2,07],gpu1`. Light to import."""

import re
from collections.abc import Sequence
from itertools import product

_PART = re.compile(r"\[([^\]]*)\]|([^\[\],]+)")
_NUMBERED = re.compile(r"(.*?)(\d+)")


def expand_hostlist(short: str) -> list[str]:
    """Expand a SLURM hostlist: `node[1-2,07],gpu1` becomes node1, node2, node07 and gpu1.

    Raises:
        ValueError: a bracket contains something other than numbers and ranges.
    """
    names: list[str] = []
    for word in re.findall(r"(?:\[[^\]]*\]|[^\[\],])+", short):
        parts = [_numbers(match[1]) if match[1] is not None else [match[2]] for match in _PART.finditer(word)]
        names += ["".join(choice) for choice in product(*parts)]
    return names


def _numbers(ranges: str) -> list[str]:
    found = []
    for one in ranges.split(","):
        first, _, last = one.partition("-")
        found += [f"{n:0{len(first)}d}" for n in range(int(first), int(last or first) + 1)]
    return found


def short_hostlist(names: Sequence[str]) -> str:
    """Return the short form of a list of nodes, in their order. Neighbors with consecutive numbers share a bracket."""
    groups: list[tuple[str, list[str]]] = []
    for name in names:
        match = _NUMBERED.fullmatch(name)
        prefix, number = (match[1], match[2]) if match else (name, "")
        if groups and number and groups[-1][0] == prefix and _follows(groups[-1][1][-1], number):
            groups[-1][1].append(number)
        else:
            groups.append((prefix, [number]))
    return ",".join(
        f"{prefix}[{numbers[0]}-{numbers[-1]}]" if len(numbers) > 1 else prefix + numbers[0]
        for prefix, numbers in groups
    )


def _follows(before: str, number: str) -> bool:
    return bool(before) and f"{int(before) + 1:0{len(before)}d}" == number
