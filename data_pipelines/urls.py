"""Where a set of shards lies: a folder of this machine, or a URL."""

from pathlib import Path
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator


class Url(str):
    """A folder that is not on this machine, written as it was given: `s3://BUCKET/PATH`, `https://HOST/PATH`."""

    __slots__ = ()

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self.rstrip('/')}/{name}")


def place(text: str | Path) -> Path | Url:
    """A URL where the text is one (`pipe:` commands of webdataset among them), a path otherwise.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(text, Path | Url):
        return text
    if not isinstance(text, str) or not text:
        raise ValueError("must be a folder or a URL")
    return Url(text) if "://" in text or text.startswith("pipe:") else Path(text)


Place = Annotated[Path | Url, PlainValidator(place), PlainSerializer(str, return_type=str)]
"""A setting that takes either, and is written as it was given: `pathlib` would make `s3:/BUCKET` of a URL."""
