"""What the tests of torchvision sets share."""

import hashlib
from pathlib import Path

from data_pipelines.sources.image_sources import Source


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def content(source: Source) -> list[tuple[str, bytes]]:
    return [(source.classes[item.label], item.read()) for item in source.items]
