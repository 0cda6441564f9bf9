"""Tables that leave out columns on a narrow terminal, so that no word is broken."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

_LEAST_WRAPPED = 30
"""Least width of a column whose text is wrapped between words."""
_LEAST_FIRST = 16
"""Least width of the first column, whose names are folded where a terminal is too narrow for all of them."""


@dataclass(frozen=True)
class Columns:
    """The cells of a table by the names of their columns."""

    rows: Sequence[Mapping[str, str]]
    spare: Sequence[str] = ()
    """Columns that are left out if the terminal is too narrow, the first one first. Before them go those without text.
    After them go those at the right, until names in the first column have room.
    """
    wrapped: str | None = None
    """A column with long text that may take several lines."""

    def fitted(self, console: Console) -> tuple[Table, str]:
        """Return the table with the columns for which there is room, and a note on those that are left out."""
        left_out: list[str] = []
        empty = [name for name in self.rows[0] if not any(row[name] for row in self.rows)]
        for name in dict.fromkeys([*empty, *self.spare]):
            if _fits(self._widths(), left_out, console):
                break
            left_out.append(name)
        first, *others = (name for name in self._widths() if name not in left_out)
        least = self._widths() | {first: min(self._widths()[first], _LEAST_FIRST)}
        if self.wrapped is not None:
            least[self.wrapped] = cell_len(self.wrapped)
        for name in reversed(others[1:]):  # the first two columns stay
            if _fits(least, left_out, console):
                break
            if name != self.wrapped:
                left_out.append(name)
        missed = ", ".join(name for name in left_out if name not in empty)
        note = f"no room for {missed}: widen the terminal, or use --json" if missed else ""
        return self._table(left_out), note

    def _widths(self) -> dict[str, int]:
        """Return the width that each column needs."""
        whole = {
            name: max(cell_len(name), *(cell_len(row[name]) for row in self.rows)) for name in self.rows[0]
        }
        return {
            name: min(width, _LEAST_WRAPPED) if name == self.wrapped else width
            for name, width in whole.items()
        }

    def _table(self, left_out: Sequence[str]) -> Table:
        table = Table()
        for name, width in self._widths().items():
            if name not in left_out:
                # Where even this is too wide, a long name of a run continues on the next line.
                fixed = name not in (self.wrapped, next(iter(self.rows[0])))
                table.add_column(name, overflow="fold", no_wrap=fixed, min_width=width if fixed else None)
        for row in self.rows:
            table.add_row(*(value for name, value in row.items() if name not in left_out))
        return table


def _fits(widths: Mapping[str, int], left_out: Collection[str], console: Console) -> bool:
    """Whether the columns that are not left out fit the terminal. Each column has a border and two spaces."""
    shown = [width for name, width in widths.items() if name not in left_out]
    return sum(shown) + 3 * len(shown) + 1 <= console.width
