"""`all4one export` and `all4one embed`: a trained backbone taken away, and used."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        show_default=False,
        help="Folder of a run or of one checkpoint, or a file that `export` wrote as safetensors.",
    ),
]


class ExportFormat(StrEnum):
    """The keys of `trainer.exports.export.FORMATS`, which loads torch."""

    SAFETENSORS = "safetensors"
    TORCHVISION = "torchvision"
    TIMM = "timm"
    TORCHSCRIPT = "torchscript"
    ONNX = "onnx"
    HF = "hf"


def export(
    run: Source,
    out: Annotated[
        Path | None,
        typer.Option(help="The file, or the folder of hf; `backbone` with the format's ending if not given."),
    ] = None,
    format_: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="safetensors: for `all4one eval`, with torchvision's or timm's weight names. torchvision: a .pth that "
            "loads strictly into torchvision's ResNet whose fc is nn.Identity(). timm: loads strictly into "
            "timm.create_model(NAME, num_classes=0). torchscript, onnx: with the normalization inside. hf: a folder "
            "with config.json, model.safetensors and a model card.",
        ),
    ] = ExportFormat.SAFETENSORS,
    momentum: Annotated[
        bool, typer.Option("--momentum", help="The averaged copy instead of the trained network.")
    ] = False,
    license_: Annotated[
        str | None,
        typer.Option(
            "--license", help="License in the card of hf, such as mit; left for you to fill in if not given."
        ),
    ] = None,
) -> None:
    """Write a run's backbone for others to load, and check that what was written gives the same features."""
    from trainer.exports.export import export_backbone

    written, loads_into = export_backbone(run, out, format_name=format_, momentum=momentum, license=license_)
    typer.echo(f"wrote {written}: {loads_into}")


class BackboneName(StrEnum):
    """The backbones of a run."""

    ONLINE = "online"
    MOMENTUM = "momentum"


def embed(
    source: Source,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...",
            show_default=False,
            help="Images, folders and tars of them, and sets of shards with an index, which may be URLs.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The features: .parquet with key, label and embedding, or .npy with the keys in a .txt."
        ),
    ] = Path("features.npy"),
    backbone: Annotated[
        BackboneName | None,
        typer.Option(help="The trained network of a run, which is the default, or its averaged copy."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 256,
) -> None:
    """Write the features of images, sized and normalized as for evaluation; what is left out is named, with why."""
    from launch.evaluate.embed import embed_images

    embed_images(source, images, out, backbone=backbone, batch=batch)
