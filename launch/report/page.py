"""The page: sections of words, tables, charts and tiles, as one HTML file that needs nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from launch.report.charts import Figure
from launch.report.tables import Table

_HERE = Path(__file__).parent


class Tile(NamedTuple):
    """An image of a gallery."""

    uri: str
    name: str


class Cell(NamedTuple):
    """A tile beside the first one of its row; `seen` is None where there is no image to show."""

    seen: Tile | None
    match: str = ""
    """`same` or `other`, as its class is that of the first tile or not."""
    words: str = ""
    """Under the tile."""


class TileRow(NamedTuple):
    """An image and those that belong to it."""

    first: Tile
    others: Sequence[Cell]


class Gallery(NamedTuple):
    """Rows of tiles."""

    title: str
    rows: Sequence[TileRow]


@dataclass(frozen=True)
class Section:
    """A part of the page under a title of its own; what is empty is left out."""

    title: str
    words: str = ""
    points: Sequence[str] = ()
    table: Table | None = None
    legend: Sequence[tuple[str, str]] = ()
    """Names with their colors in the charts."""
    charts: Sequence[Figure] = ()
    wide: bool = False
    """Whether charts stand one under the other."""
    galleries: Sequence[Gallery] = ()

    @property
    def anchor(self) -> str:
        """Its name in addresses."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


@dataclass(frozen=True)
class Page:
    """What stands on a page."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    figures: Sequence[tuple[str, str]] = field(default=())
    """The key figures, each with what it is."""
    footer: str = ""


def render(page: Page) -> str:
    """The page as HTML. All that comes from runs is escaped, and the page's own policy forbids it to load anything."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup((_HERE / "page.css").read_text())
    return environment.get_template("page.html.jinja").render(page=page, style=style)
