"""What the tests of builder share."""

from pathlib import Path

from data_pipelines.build.builder import BuildOptions

OPTIONS = BuildOptions(shard_samples=25)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
