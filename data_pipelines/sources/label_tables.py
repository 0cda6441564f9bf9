"""Label files: lines `FILE CLASS`, or a table with commas or tabs, with or without a header.

A file is given by its path in the source, by its name, or by its name without the suffix.
"""

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_pipelines.errors import UserError
from data_pipelines.formatting import amount, readable

_LABEL_COLUMNS = (
    "label",
    "labels",
    "class",
    "classes",
    "class_name",
    "category",
    "target",
    "wnid",
    "synset",
    "cls",
    "species",
)
_FIX = "write lines FILE CLASS, or a CSV file with the columns `file` and `label`"
_LOOKED_AT = 1000
_WORDS_OF_A_BOX = 5
_BOXES = re.compile(r"\S+( -?\d+(\.\d+)?){4}( \S+( -?\d+(\.\d+)?){4})*")


class Row(NamedTuple):
    """One line of a label file."""

    number: int
    """Number of the line, from 1."""
    file: str
    label: str


class _Known:
    """Recognizes the files of a source in the cells of a label file."""

    def __init__(self, files: Iterable[str]) -> None:
        self.paths = set(files)
        self.names = {PurePosixPath(file).name for file in self.paths}
        self.stems = {PurePosixPath(name).stem for name in self.names}

    def __contains__(self, cell: str) -> bool:
        path = PurePosixPath(cell.strip())
        return str(path) in self.paths or path.name in self.names or str(path) in self.stems


def read_rows(path: Path, lines: Sequence[str], files: Collection[str], column: str | None) -> list[Row]:
    """Return the files and classes of a label file.

    Args:
        path: the file, for messages and by its suffix.
        lines: its lines.
        files: paths of the images, by which the column of files is found.
        column: name of the column that holds the class. None: the usual names.

    Raises:
        UserError: a line is no file and class, or the columns cannot be found.
    """
    known = _Known(files)
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    delimiter = _delimiter(path, [line for _, line in numbered])
    if delimiter is None:
        if column is not None:
            raise UserError("the label file has no columns", where=path, fix="leave out --label-column")
        return [_two_words(path, number, line, known) for number, line in numbered]
    cells = list(csv.reader((line for _, line in numbered), delimiter=delimiter))
    table = [
        (number, [cell.strip() for cell in row]) for (number, _), row in zip(numbered, cells, strict=False)
    ]
    if not table:
        return []
    file, label, header = _columns(path, [row for _, row in table], known, column)
    rows = []
    for number, row in table[header:]:
        if len(row) <= max(file, label) or not row[file] or not row[label]:
            raise UserError(
                f"not a file and a class: {lines[number - 1]!r}", where=f"{path}:{number}", fix=_FIX
            )
        rows.append(Row(number, row[file], row[label]))
    return _without_boxes(path, rows)


def _without_boxes(path: Path, rows: list[Row]) -> list[Row]:
    """Return rows whose classes are followed by boxes, as in `n01440764 13 18 465 268`, without the boxes.

    ImageNet's LOC_val_solution.csv has them: a class and four numbers for each object of the image.
    """
    if not all(_BOXES.fullmatch(row.label) for row in rows):
        return rows
    found = []
    for row in rows:
        classes = set(row.label.split()[::_WORDS_OF_A_BOX])
        if len(classes) > 1:
            raise UserError(
                f"{row.file!r} has boxes of several classes: {', '.join(sorted(classes))}",
                where=f"{path}:{row.number}",
                fix="keep the boxes of one class for each image",
            )
        found.append(row._replace(label=classes.pop()))
    return found


def match_rows(path: Path, rows: Sequence[Row], files: Sequence[str]) -> tuple[dict[str, str], int]:
    """Return the class of each image, and the number of lines that name no image.

    Args:
        path: the label file, for messages.
        rows: its lines.
        files: paths of the images.

    Raises:
        UserError: an image has no class, or more than one.
    """
    label_of: dict[str, str] = {}
    for row in rows:
        name = str(PurePosixPath(row.file))
        if label_of.setdefault(name, row.label) != row.label:
            raise UserError(
                f"{row.file!r} has the classes {label_of[name]!r} and {row.label!r}",
                where=f"{path}:{row.number}",
                fix="keep one line for each image",
            )
    names = Counter(PurePosixPath(file).name for file in files)
    stems = Counter(PurePosixPath(name).stem for name in names)
    class_of: dict[str, str] = {}
    used = set()
    missing = []
    for file in files:
        name = PurePosixPath(file).name
        ways = [file, *_ends(file)]
        if names[name] == 1:
            ways += [name] + [PurePosixPath(name).stem] * (stems[PurePosixPath(name).stem] == 1)
        way = next((way for way in ways if way in label_of), None)
        if way is None:
            missing.append(file)
        else:
            class_of[file] = label_of[way]
            used.add(way)
    if missing:
        again = names[PurePosixPath(missing[0]).name] > 1
        raise UserError(
            f"{amount(len(missing), 'image has', 'images have')} no label, such as {readable(missing[0])!r}",
            where=path,
            fix="write the paths of the images, because several have the same name"
            if again
            else "add their lines",
        )
    return class_of, len(label_of.keys() - used)


def _ends(file: str) -> list[str]:
    """Return the path without its first folders, the longest first, and without its suffix."""
    parts = PurePosixPath(file).parts
    return ["/".join(parts[start:]) for start in range(1, len(parts) - 1)]


def _delimiter(path: Path, lines: Sequence[str]) -> str | None:
    by_suffix = {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())
    if by_suffix and any(by_suffix in line for line in lines):
        return by_suffix
    return next((mark for mark in "\t,;" if lines and all(mark in line for line in lines)), None)


def _two_words(path: Path, number: int, line: str, known: _Known) -> Row:
    """Split a line into a file, whose name may have spaces, and a class."""
    text = line.strip()
    file, _, label = (part.strip() for part in _rpartition(text))
    first, _, rest = text.partition(" ")
    if not file or (file not in known and " " in rest.strip() and first in known):
        raise UserError(
            f"not a file and a class: {line!r}",
            where=f"{path}:{number}",
            fix=_FIX + ". A class with spaces needs a CSV file or a tab before it",
        )
    return Row(number, file, label)


def _rpartition(text: str) -> tuple[str, str, str]:
    words = text.rsplit(None, 1)
    return (words[0], " ", words[1]) if len(words) == 2 else ("", " ", text)


def _columns(
    path: Path, table: Sequence[Sequence[str]], known: _Known, column: str | None
) -> tuple[int, int, int]:
    """Return the positions of the file and the class in a row, and the number of lines of the header."""
    width = max(len(row) for row in table)
    body = table[:_LOOKED_AT]
    hits = [sum(len(row) > place and row[place] in known for row in body) for place in range(width)]
    file = hits.index(max(hits))
    if not hits[file]:
        raise UserError(
            f"no line names an image of the source, such as {table[-1][0]!r}", where=path, fix=_FIX
        )
    header = int(len(table[0]) <= file or table[0][file] not in known)
    names = [name.lower() for name in table[0]] if header else []
    others = [place for place in range(width) if place != file]
    if column is not None:
        wanted = [place for place in others if place < len(names) and table[0][place] == column]
    elif len(others) == 1:
        wanted = others
    else:
        wanted = [place for place in others if place < len(names) and names[place] in _LABEL_COLUMNS]
        if not header and _are_numbers(body, [place for place in others if place != others[0]]):
            wanted = [others[0]]  # such as FILE CLASS X Y WIDTH HEIGHT
    if len(wanted) == 1:
        return file, wanted[0], header
    shown = ", ".join(map(repr, table[0]))
    raise UserError(
        f"the column with the class cannot be found. Looked for {column or ', '.join(_LABEL_COLUMNS)}. The first line: "
        f"{shown}",
        where=path,
        fix="name it with --label-column NAME"
        if header
        else "add a header with the columns `file` and `label`",
    )


def _are_numbers(rows: Sequence[Sequence[str]], places: Sequence[int]) -> bool:
    for row in rows:
        for place in places:
            try:
                float(row[place])
            except (ValueError, IndexError):
                return False
    return True
