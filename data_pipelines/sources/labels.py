"""Classes of images that are not in class folders: a list of files, or the devkit of an ILSVRC dataset."""

import tarfile
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_pipelines.errors import UserError

_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


class Labels(NamedTuple):
    """The class of each image of a source."""

    class_of: dict[str, str]
    """Class name by file name."""
    classes: tuple[str, ...]
    """All classes in sorted order. A class may have no image."""


def read_labels(path: Path, files: Sequence[str]) -> Labels:
    """Read the classes of images from a file.

    Args:
        path: a text file with lines `FILE CLASS`, the original devkit of ILSVRC2012 (a tar.gz), or the ground truth of
            the validation images from an unpacked devkit, with `meta.mat` beside it. The last two name classes by their
            WordNet ids, as the training tar does.
        files: names of the images.

    Raises:
        UserError: the file is none of these, or does not match the images.
    """
    try:
        if tarfile.is_tarfile(path):
            return _from_devkit(path, files)
        lines = path.read_text().splitlines()
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
    return _from_lines(lines, files, path)


def _from_lines(lines: list[str], files: Sequence[str], path: Path) -> Labels:
    class_of: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if len(words) != 2 and words:
            raise UserError(
                f"not a file and a class: {line!r}", where=f"{path}:{number}", fix="write lines FILE CLASS"
            )
        if words:
            class_of[words[0]] = words[1]
    missing = [name for name in files if name not in class_of]
    if missing:
        raise UserError(
            f"{len(missing)} images have no label, such as {missing[0]!r}", where=path, fix="add their lines"
        )
    return Labels(class_of, tuple(sorted({class_of[name] for name in files})))


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
    for number, (name, written) in enumerate(zip(sorted(files), ids, strict=True), 1):
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
