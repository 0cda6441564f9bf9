"""Export a backbone in one of the formats, and check that the exported file gives the same features."""

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from data_pipelines.errors import UserError, first_line
from data_pipelines.files import replacing, require_place
from trainer.exports import hf, onnx, safetensors, timm, torchscript, torchvision
from trainer.exports.format import Format, Normalized, Subject
from trainer.inference.loaded_backbones import load_backbones

FORMATS: dict[str, Format] = {
    "safetensors": safetensors.FORMAT,
    "torchvision": torchvision.FORMAT,
    "timm": timm.FORMAT,
    "torchscript": torchscript.FORMAT,
    "onnx": onnx.FORMAT,
    "hf": hf.FORMAT,
}
TOLERANCE = 1e-5
"""Maximum difference of a feature, relative to the largest feature if that is above 1."""


def export_backbone(
    source: Path,
    out: Path | None,
    *,
    format_name: str = "safetensors",
    momentum: bool = False,
    license: str | None = None,
    repository: str | None = None,
) -> tuple[Path, str]:
    """Export one backbone of a run.

    Args:
        source: folder of a run or of a checkpoint, an exported file, or a model on the hub.
        out: file or folder to write. None: `backbone` with the suffix of the format, in the working directory.
        format_name: a key of `FORMATS`.
        momentum: whether to export the momentum (EMA) encoder instead of the trained network.
        license: license for the model card.
        repository: `ORG/NAME` on the Hugging Face hub that the model card names.

    Returns:
        The written path, and one sentence about what loads it.

    Raises:
        UserError: there is no such source or backbone, the backbone does not fit the format, the path is not
            writable, or the exported file gives other features than the backbone. Then nothing is left behind.
    """
    form = FORMATS[format_name]
    out = out or Path("backbone").with_suffix(form.suffixes[0] if form.suffixes else "")
    _require_name(out, format_name)
    _require_free(out, form)
    trained = load_backbones(source)
    which, backbone = trained.choose("momentum" if momentum else None)
    backbone = copy.deepcopy(backbone).cpu().to(memory_format=torch.contiguous_format)
    subject = Subject(backbone, trained.recipe, which, trained.run, trained.step, license, repository)
    try:
        with (replacing if form.suffixes else _new_folder)(out) as temporary:
            form.write(subject, temporary)
            _check(subject, form, temporary)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot be written: {error}", where=out, fix="choose another path with --out"
        ) from None
    except RuntimeError as error:  # raised by exporters that do not support the network
        raise UserError(
            f"{subject.name} cannot be written as {format_name}: {first_line(error)}",
            where=out,
            fix="export in another format, such as safetensors",
        ) from error
    return out, form.loads_into(subject)


@torch.no_grad()
def _check(subject: Subject, form: Format, path: Path) -> None:
    """Compare features of the exported file with the backbone, on another batch size than the export used."""
    size = subject.recipe.image_size
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    whole = Normalized(subject)
    wanted = whole(images)  # [3, F]
    found = form.load(subject, path)(images if form.normalizes else whole.normalize(images))
    difference = (found - wanted).abs().max().item() / max(1.0, wanted.abs().max().item())
    if not difference <= TOLERANCE:
        raise UserError(
            f"the exported file gives different features than the backbone, by up to {difference:.1e}",
            where=path,
            fix="export in another format, such as safetensors",
        )


def _require_name(out: Path, name: str) -> None:
    """Refuse the suffix of another format. Otherwise the mistake would only show when the file is loaded."""
    known = {suffix: other for other, form in reversed(FORMATS.items()) for suffix in form.suffixes}
    if out.suffix in known and out.suffix not in FORMATS[name].suffixes:
        raise UserError(
            f"the name ends in {out.suffix}, but the format is {name}",
            where=out,
            fix=f"add --format {known[out.suffix]}, or choose another name with --out",
        )


def _require_free(out: Path, form: Format) -> None:
    """Refuse a path that cannot be written, before time is spent on the export."""
    kind = "file" if form.suffixes else "folder"
    if out.name in ("", ".."):
        raise UserError(
            f"is not a valid name of a {kind}", where=f"--out {out}", fix=f"give a new {kind} with --out"
        )
    if form.suffixes and out.is_dir():
        example = out / f"backbone{form.suffixes[0]}"
        raise UserError("is a folder", where=out, fix=f"give a file with --out, such as {example}")
    if not form.suffixes and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError("already exists", where=out, fix="choose another folder with --out, or remove it")
    require_place(out)


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that is renamed to it at the end of the block."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
