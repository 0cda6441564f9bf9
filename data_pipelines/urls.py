"""Locations of datasets: local folders or URLs."""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from pydantic import PlainSerializer, PlainValidator

_SIGNED = re.compile(r"[?&](x-amz-signature|x-goog-signature|signature|sig|token)=", re.IGNORECASE)


class Url(str):
    """A remote folder, stored exactly as given: `s3://BUCKET/PATH`, `https://HOST/PATH`."""

    __slots__ = ()

    def __truediv__(self, name: str) -> "Url":
        """Return the URL of a file in the folder. A query, such as a signature, stays at the end."""
        folder, mark, query = self.partition("?")
        return Url(f"{folder.rstrip('/')}/{quote(name) if mark else name}{mark}{query}")


def shown(url: str) -> str:
    """Return a URL without its query, which may hold a signature, for messages and records."""
    return url.partition("?")[0] if "://" in url else url


def without_signature(url: str) -> str:
    """Return a URL without its query if that holds a signature, which is another one in each run."""
    return url.partition("?")[0] if _SIGNED.search(url) else url


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
