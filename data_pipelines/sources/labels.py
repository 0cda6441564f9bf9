"""Classes of images that are not in class folders: a list of files, or the devkit of an ILSVRC dataset."""

import tarfile
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_pipelines.errors import UserError
from data_pipelines.sources.classes import ordered_classes
from data_pipelines.sources.label_tables import match_rows, read_rows

_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


class Labels(NamedTuple):
    """The class of each image of a source."""

    class_of: dict[str, str]
    """Class name by image."""
    classes: tuple[str, ...]
    """All classes in their order. A class may have no image."""
    notes: tuple[str, ...] = ()
    """What the user should know."""


def read_labels(
    path: Path, files: Sequence[str], *, column: str | None = None, numeric: bool = False
) -> Labels:
    """Read the classes of images from a file.

    Args:
        path: a text file with lines `FILE CLASS` or a table (see `label_tables`), the original devkit of ILSVRC2012 (a
            tar.gz), or the ground truth of the validation images from an unpacked devkit, with `meta.mat` beside it.
            The last two name classes by their WordNet ids, as the training tar does.
        files: paths of the images in their source.
        column: name of the column of a table that holds the class. None: the usual names.
        numeric: whether class names are numbers and are sorted by their values.

    Raises:
        UserError: the file is none of these, or does not match the images.
    """
    try:
        if tarfile.is_tarfile(path):
            return _from_devkit(path, files)
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "the label file cannot be read",
            where=path,
            fix="give a text file with lines FILE CLASS, or a devkit",
        ) from error
    words = [line.strip() for line in lines if line.strip()]
    if words and all(word.isdecimal() for word in words):
        try:
            meta = path.with_name(_META).read_bytes()
        except OSError as error:
            raise UserError(
                f"the file contains class ids, but {_META} with their names cannot be read beside it",
                where=path,
                fix=f"give the file inside the unpacked devkit (data/{_TRUTH}), or the devkit's tar.gz",
            ) from error
        return _from_ids(words, meta, files, path)
    rows = read_rows(path, lines, set(files), column)
    class_of, unused = match_rows(path, rows, files)
    notes = (f"{unused:,} lines of {path} name no image of the source",) if unused else ()
    return Labels(class_of, tuple(ordered_classes(class_of.values(), numeric=numeric)), notes)


def _from_devkit(path: Path, files: Sequence[str]) -> Labels:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                inner = PurePosixPath(member.name)
                if inner.parts[-2:] in {("data", _TRUTH), ("data", _META)} and (
                    file := tar.extractfile(member)
                ):
                    found[inner.name] = file.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"the devkit cannot be read: {error}", where=path, fix="copy it again") from error
    if missing := {_TRUTH, _META} - found.keys():
        raise UserError(
            f"this is not a devkit of ILSVRC2012: it contains no data/{min(missing)}",
            where=path,
            fix="give ILSVRC2012_devkit_t12.tar.gz, or a text file with lines FILE CLASS",
        )
    return _from_ids(found[_TRUTH].decode("ascii", "replace").split(), found[_META], files, path)


def _from_ids(ids: list[str], meta: bytes, files: Sequence[str], path: Path) -> Labels:
    """Assign classes from the ground truth, whose line n is the id of the n-th image in the order of names."""
    wnids = _leaves(meta, path)
    if len(ids) != len(files):
        raise UserError(
            f"the ground truth has {len(ids):,} lines, but the source has {len(files):,} images",
            where=path,
            fix="give all validation images and the ground truth of the same dataset",
        )
    class_of = {}
    ordered = sorted(files, key=lambda file: (PurePosixPath(file).name, file))
    for number, (name, written) in enumerate(zip(ordered, ids, strict=True), 1):
        if not written.isdecimal() or int(written) not in wnids:
            raise UserError(
                f"line {number} of the ground truth is {written!r}, which is not a class id in {_META}",
                where=path,
                fix="use both files from the same devkit",
            )
        class_of[name] = wnids[int(written)]
    return Labels(class_of, tuple(sorted(wnids.values())))


def _leaves(meta: bytes, path: Path) -> dict[int, str]:
    """Return the WordNet id of each class by number, without the parent synsets above the classes."""
    import numpy as np
    from scipy.io import loadmat

    try:
        synsets = np.atleast_1d(loadmat(BytesIO(meta), squeeze_me=True)["synsets"])  # [N] records
        columns = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], synsets["num_children"], strict=True)
        leaves = {int(number): str(wnid) for number, wnid, children in columns if int(children) == 0}
    except Exception as error:  # broken bytes make scipy raise errors of any kind
        raise UserError(
            f"{_META} does not list the synsets of an ILSVRC2012 devkit",
            where=path,
            fix="use the file in ILSVRC2012_devkit_t12.tar.gz",
        ) from error
    return leaves
