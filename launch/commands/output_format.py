"""Formats of commands that print values for people and for programs."""

from enum import StrEnum
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class OutputFormat(StrEnum):
    """How a command prints what it found."""

    TABLE = "table"
    YAML = "yaml"
    JSON = "json"
