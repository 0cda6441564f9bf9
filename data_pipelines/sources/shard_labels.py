"""Labels of WebDataset samples.

A label is in `.cls` (text), or in the first existing field of `label`, `cls` and `class` in `.json`. If no sample of a
set has either, it is in `.txt` or `.npy`, if all of these are numbers. A label is a whole number, the name of a class,
or a list with a single 1 (one-hot).
"""

import io
import json
import re
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.shards.index import CLASSES

LABEL_FIELDS = ("label", "cls", "class")
LOOKED_FOR = ".cls, .json with `label`, `cls` or `class`, .txt or .npy with a number"
"""Where labels are looked for, for messages."""
MAX_CLASSES = 1_000_000
_STRONG, _WEAK = ("cls", "json"), ("txt", "npy")
_MAX_WEAK = 4096
"""Bytes of a member up to which it may be a label."""
_LIST = re.compile(r"\[?\s*\d+(\.0*)?([\s,;]+\d+(\.0*)?)+\s*\]?")
"""Several numbers as text."""
Label = int | str
"""A number, or the name of a class. -1: no label."""


class LabelError(Exception):
    """An invalid label. The message gives the reason.

    Args:
        what: what is wrong with the label.
        fix: how the creator of the shards can fix it.
    """

    def __init__(self, what: str, fix: str) -> None:
        self.fix = fix
        super().__init__(what)


class ClassNames:
    """The known classes of a set.

    Args:
        names: their names in the order of their numbers.
        where: the file or option with the names, for messages.
    """

    def __init__(self, names: Sequence[str], where: str = CLASSES) -> None:
        self.names, self.where = tuple(names), where
        self._numbers = {name: number for number, name in enumerate(names)}

    def number(self, label: Label) -> int:
        """Return the number of a label, which is a number or a name.

        Raises:
            LabelError: it is not among the classes.
        """
        if isinstance(label, int):
            return require_class(label, len(self.names))
        if label not in self._numbers:
            raise LabelError(
                f"its label {label!r} is not a whole number and not a class of {self.where}",
                f"correct the label, or write all class names to {self.where}, one per line",
            )
        return self._numbers[label]


def label_member(files: Mapping[str, object]) -> str | None:
    """Return the extension of the member that holds the label, or None if there is none."""
    for name in _STRONG:
        if name in files:
            return name
    endings = [name for name in files if name.rpartition(".")[2] == "cls"]
    return endings[0] if len(endings) == 1 else None


def weak_member(files: Mapping[str, object]) -> str | None:
    """Return the extension of the member that may hold a label if the whole set has no other labels."""
    return next((name for name in _WEAK if name in files), None)


def parse_label(extension: str, data: bytes, fields: Sequence[str] = LABEL_FIELDS) -> Label:
    """Return the label in a member of a sample, or -1 if the member has none.

    Args:
        extension: extension of the member.
        data: its content.
        fields: fields of `.json` that may hold the label.

    Raises:
        LabelError: it is not a label.
    """
    kind = extension.rpartition(".")[2]
    if kind == "json":
        return _from_json(data, fields)
    text = data.decode("utf-8-sig", "replace").strip()
    if not text:
        raise LabelError(f"its .{extension} is empty", "write the number of the class, or remove the member")
    return as_label(text)


def weak_label(extension: str, data: bytes) -> Label | None:
    """Return the label in a `.txt` or `.npy`, or None if it is something else, such as a caption or an embedding."""
    if len(data) > _MAX_WEAK and extension == "txt":
        return None
    if extension == "txt":
        text = data.decode("utf-8-sig", "replace").strip()
        label = as_label(text) if text else None
        return label if not isinstance(label, int) or label >= 0 else None
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
        return as_label(array.tolist())
    except (LabelError, ValueError, EOFError, OSError):
        return None


def as_label(value: object) -> Label:
    """Return a value as a label: a number, a number as text, a number with a zero fraction, a one-hot list, or a name.

    Raises:
        LabelError: it is none of these.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list) and all(item in (0, 1) for item in value) and sum(value) == 1:
        return value.index(1)
    if isinstance(value, str) and value.strip():
        text = value.strip()
        if _LIST.fullmatch(text):
            return as_label([float(word) for word in re.findall(r"[\d.]+", text)])
        try:
            return int(text)
        except ValueError:
            pass
        try:
            number = float(text)
        except ValueError:
            return text
        if number.is_integer():
            return int(number)
    raise LabelError(f"its label is not a whole number: {value!r}", "number the classes from 0")


def require_class(label: int, classes: int) -> int:
    """Return a label, or raise a LabelError if it is outside of the classes."""
    if not -1 <= label < classes:
        raise LabelError(
            f"its label {label} is outside the {classes:,} classes",
            f"correct the label, or write all class names to {CLASSES}, one per line",
        )
    return label


def read_label(texts: Mapping[str, bytes], classes: int) -> int | None:
    """Return the number of the class in a sample's members, or None if it has no label.

    Args:
        texts: content of the members by extension.
        classes: number of classes.

    Raises:
        LabelError: it is not a whole number, or outside the classes.
    """
    if (name := label_member(texts)) is not None:
        label: Label | None = parse_label(name, texts[name])
        label = None if label == -1 else label
    elif (name := weak_member(texts)) is not None:
        label = weak_label(name, texts[name])
        label = label if isinstance(label, int) else None
    else:
        label = None
    if isinstance(label, str):
        raise LabelError(f"its label is not a whole number: {label!r}", "number the classes from 0")
    return None if label is None else require_class(label, classes)


def _from_json(data: bytes, fields: Sequence[str]) -> Label:
    try:
        found = json.loads(data.decode("utf-8-sig"))
        value = next((found[name] for name in fields if found.get(name) is not None), -1)
    except (ValueError, AttributeError):
        raise LabelError("its .json is not a JSON object", "correct or remove the sample") from None
    return as_label(value)
