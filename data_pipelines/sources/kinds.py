"""Which kind of source a name is, and its images by split."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from data_pipelines.errors import UserError
from data_pipelines.formatting import readable
from data_pipelines.imaging.foreign import IMAGE_SUFFIXES
from data_pipelines.shards.tars import members
from data_pipelines.sources.image_sources import LabelOptions, digits, open_source
from data_pipelines.sources.items import Source
from data_pipelines.sources.parquet import open_parquet
from data_pipelines.sources.shard_samples import is_compressed_tar, refuse_compressed
from data_pipelines.sources.splits import group_by_split, tar_split
from data_pipelines.sources.tar_sources import has_labels, open_shard, open_tars
from data_pipelines.walk import files_below, is_hidden, is_hidden_member

_REPOSITORY = ("README.md", "dataset_infos.json", "dataset_info.json", ".gitattributes", "data")
"""Files and folders in the root of a Hugging Face repository."""


class Torchvision(NamedTuple):
    """Where torchvision stores its sets."""

    root: Path
    download: bool


def open_parts(
    name: str,
    options: LabelOptions,
    torchvision: Torchvision = Torchvision(Path(), False),  # noqa: B008
) -> Mapping[str, Source]:
    """List a source of any kind, by split. A single split has the name `""`.

    Args:
        name: `digits`, `torchvision:NAME`, or the path of a file or folder.
        options: how the images get their classes.
        torchvision: where torchvision stores its sets.

    Raises:
        UserError: the source is missing, is of no kind, or is refused.
    """
    _require_consistent(options)
    kind, _, inner = name.partition(":")
    if name != "digits" and kind != "torchvision":
        return _open_path(Path(name), options)
    _require_default(name, options)
    if name == "digits":
        parts: Mapping[str, Source] = digits()
    else:
        from data_pipelines.sources.torchvision_sets import open_set

        parts = open_set(inner, torchvision.root, download=torchvision.download)
    if options.enabled:
        return parts
    return {split: without_labels(source) for split, source in parts.items()}


def without_labels(source: Source) -> Source:
    """Return a source without its labels."""
    return source._replace(items=[item._replace(label=-1) for item in source.items], classes=())


def _require_consistent(options: LabelOptions) -> None:
    given = _given(options)
    if not options.enabled and given:
        raise UserError(f"{given[0]} and --no-labels exclude each other", fix="leave out one of them")
    if options.numeric and options.classes is not None:
        raise UserError("--classes and --numeric-classes exclude each other", fix="leave out one of them")


def _given(options: LabelOptions) -> list[str]:
    given = {
        "--labels": options.file is not None,
        "--label-column": options.column is not None,
        "--classes": options.classes is not None,
        "--numeric-classes": options.numeric,
    }
    return [option for option, used in given.items() if used]


def _require_default(name: str, options: LabelOptions) -> None:
    if given := _given(options):
        raise UserError("this source contains its own labels", where=name, fix=f"leave out {given[0]}")


def _open_path(path: Path, options: LabelOptions) -> Mapping[str, Source]:
    if path.is_file():
        return _open_file(path, options)
    if not path.is_dir():
        return {"": open_source(path, options=options)}
    if parquet := _parquet_below(path):
        return open_parquet(path, parquet, options)
    if tars := _tars_below(path):
        return open_tars(path, group_by_split(path, tars, tar_split), options)
    return {"": open_source(path, options=options)}


def _open_file(path: Path, options: LabelOptions) -> Mapping[str, Source]:
    if path.suffix == ".parquet":
        return open_parquet(path, [path], options)
    if options.enabled and options.file is None and path.suffix == ".tar":
        listed = [member for member in members(path) if not is_hidden_member(member.name)]
        if has_labels(listed):
            return {"": open_shard(path, options)}
    if is_compressed_tar(path):
        raise UserError(
            "the tar is compressed",
            where=readable(path),
            fix=f"decompress it first, because images are read by their position: gunzip {readable(path)}",
        )
    return {"": open_source(path, options=options)}


def _parquet_below(folder: Path) -> list[Path]:
    """Return the Parquet files of a folder, or of a Hugging Face repository with files in any folder."""
    here = [path for path in sorted(folder.glob("*.parquet")) if not is_hidden(path.name)]
    if here or not any((folder / name).exists() for name in _REPOSITORY):
        return here
    files = list(files_below(folder))
    parquet = [path for path in files if path.suffix == ".parquet"]
    # A repository may hold a few pictures for its page, and a folder of images a table.
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES] if parquet else []
    return parquet if _bytes(parquet) >= _bytes(images) else []


def _bytes(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _tars_below(folder: Path) -> list[Path]:
    """Return the tars of a folder that holds no images itself."""
    tars, packed = [], []
    for path in files_below(folder):
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            return []
        if suffix == ".tar":
            tars.append(path)
        elif is_compressed_tar(path):
            packed.append(path)
    refuse_compressed(packed, folder)
    return sorted(tars)
