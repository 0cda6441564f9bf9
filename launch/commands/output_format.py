"""Formats of commands that print values for people and for programs."""

from enum import StrEnum


class OutputFormat(StrEnum):
    """How a command prints what it found."""

    TABLE = "table"
    YAML = "yaml"
    JSON = "json"
