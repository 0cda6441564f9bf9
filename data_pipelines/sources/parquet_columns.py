"""Which columns of a Parquet file hold the images, the labels and the class names."""

import json
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError

_IMAGES = ("image", "img")
_LABELS = ("label", "fine_label")
_OTHER_LABELS = (
    "labels",
    "class",
    "cls",
    "target",
    "category",
    "class_id",
    "label_id",
    "class_label",
    "class_name",
)


def image_column(schema: Any, path: Path) -> str:
    """Return the path of the bytes column in the schema.

    Raises:
        UserError: there is no column of encoded images, or several and none has a usual name.
    """
    found = {name: leaf for name in schema.names if (leaf := _leaf(schema.field(name))) is not None}
    chosen = next((name for name in _IMAGES if name in found), None)
    if chosen is None and len(found) == 1:
        chosen = next(iter(found))
    if chosen is not None:
        return found[chosen]
    raise UserError(
        f"the file has no column `image` of encoded images. Its columns: {_listed(schema)}",
        where=path,
        fix="rename the column to `image`; its type must be binary, or a struct with a binary field `bytes`",
    )


def label_column(schema: Any, path: Path, wanted: str | None) -> str | None:
    """Return the column of the labels, or None if there is none.

    Args:
        schema: schema of the file.
        path: the file, for messages.
        wanted: name of the column. None: the usual names, or the only one that Hugging Face's schema calls a class.

    Raises:
        UserError: there is no such column, or several could be meant.
    """
    if wanted is not None:
        if wanted in schema.names:
            return wanted
        raise UserError(
            f"the file has no column {wanted!r}. Its columns: {_listed(schema)}",
            where=path,
            fix="name one of them with --label-column",
        )
    if (usual := next((name for name in _LABELS if name in schema.names), None)) is not None:
        return usual
    others = [name for name in schema.names if name in _OTHER_LABELS]
    found = others or [name for name in schema.names if class_names(schema, name)]
    if len(found) > 1:
        raise UserError(
            f"several columns could hold the labels: {', '.join(found)}",
            where=path,
            fix="name one of them with --label-column, or use --no-labels",
        )
    return found[0] if found else None


def class_names(schema: Any, label: str | None) -> tuple[str, ...]:
    """Return the class names from Hugging Face's part of the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(features[label]["names"])
    except (ValueError, LookupError, TypeError):
        return ()


def no_label_note(schema: Any, path: Path) -> str | None:
    """Return a note about a file without a label column, or None if it has only images."""
    from pyarrow import types

    others = [
        field.name
        for field in schema
        if types.is_integer(field.type) or types.is_string(field.type) or types.is_large_string(field.type)
    ]
    if not others:
        return None
    return (
        f"{path.name} has no column of labels. Looked for {', '.join((*_LABELS, *_OTHER_LABELS))}. It has "
        f"{', '.join(others)}. If one of these holds labels, use --label-column NAME; if not, use --no-labels"
    )


def _leaf(field: Any) -> str | None:
    """Return the path of the encoded bytes in a column, or None if it holds something else."""
    from pyarrow import types

    kind, inner = field.type, field.name
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind, inner = kind.field("bytes").type, f"{field.name}.bytes"
    return inner if types.is_binary(kind) or types.is_large_binary(kind) else None


def _listed(schema: Any) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)
