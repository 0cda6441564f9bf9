"""The HTML page: sections of text, tables, charts and tiles in one self-contained file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from launch.report.charts import Figure
from launch.report.headline import KeyFigure
from launch.report.tables import Table

_HERE = Path(__file__).parent


class Tile(NamedTuple):
    """An image of a gallery."""

    uri: str
    name: str


class Cell(NamedTuple):
    """A tile beside the first tile of its row. `seen` is None if there is no image to show."""

    seen: Tile | None
    match: str = ""
    """`same` or `other`: whether its class is that of the first tile."""
    words: str = ""
    """Text under the tile."""


class TileRow(NamedTuple):
    """An image with its related images."""

    first: Tile
    others: Sequence[Cell]


class Gallery(NamedTuple):
    """Rows of tiles."""

    title: str
    rows: Sequence[TileRow]


@dataclass(frozen=True)
class Section:
    """A part of the page with its own title. Empty parts are left out."""

    title: str
    words: str = ""
    points: Sequence[str] = ()
    """Lines of a list."""
    table: Table | None = None
    legend: Sequence[tuple[str, str]] = ()
    """Names with their colors in the charts."""
    charts: Sequence[Figure] = ()
    wide: bool = False
    """Whether charts are placed one below the other."""
    galleries: Sequence[Gallery] = ()

    @property
    def anchor(self) -> str:
        """The anchor of the section in URLs."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


@dataclass(frozen=True)
class Page:
    """The content of a page."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    figures: Sequence[KeyFigure] = ()
    footer: str = ""


def render(page: Page) -> str:
    """Render the page as HTML. Content from runs is escaped, and a content security policy forbids loading anything."""
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
