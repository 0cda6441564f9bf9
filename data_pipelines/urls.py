"""Locations of datasets: local folders or URLs."""

from pathlib import Path
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator


class Url(str):
    """A remote folder, stored exactly as given: `s3://BUCKET/PATH`, `https://HOST/PATH`."""

    __slots__ = ()

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self.rstrip('/')}/{name}")


def place(text: str | Path) -> Path | Url:
    """Return a URL if the text is one (including `pipe:` commands of webdataset), otherwise a path.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(text, Path | Url):
        return text
    if not isinstance(text, str) or not text:
        raise ValueError("must be a folder or a URL")
    return Url(text) if "://" in text or text.startswith("pipe:") else Path(text)


Place = Annotated[Path | Url, PlainValidator(place), PlainSerializer(str, return_type=str)]
"""A setting that accepts a path or a URL and keeps it as given. `pathlib` would turn `s3://BUCKET` into
`s3:/BUCKET`."""
