"""The commands `export`, `embed`, `patches` and `segment`, which use a trained backbone."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from data_pipelines.errors import UserError
from launch.commands.renamed_options import earlier_name, value_of
from launch.local.imports import collector_paused

Source = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        show_default=False,
        help="Folder of a run or of one checkpoint, a safetensors file from `all4one export`, RUN@STEP or RUN@best, or "
        "hf://ORG/NAME or hf://ORG/NAME@REVISION on the Hugging Face hub.",
    ),
]


Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES...",
        show_default=False,
        help="Images, folders or tars of images, or indexed shards. Shards may be URLs.",
    ),
]


ImageSize = Annotated[
    int | None,
    typer.Option(
        min=8,
        max=2048,
        help="Side of the images that the network gets, in pixels. Larger images have more patches. Default: that of "
        "the run.",
    ),
]


class BackboneName(StrEnum):
    """The backbones that a run has."""

    ONLINE = "online"
    MOMENTUM = "momentum"


class ExportFormat(StrEnum):
    """The keys of `trainer.exports.export.FORMATS`. They are repeated here because that module loads torch."""

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
        typer.Option(
            help="Output file, or folder for hf. Default: `backbone` with the suffix of the format, or NAME of --push."
        ),
    ] = None,
    format_: Annotated[
        ExportFormat | None,
        typer.Option(
            "--format",
            show_default=False,
            help="safetensors: for `all4one eval`, with the weight names of torchvision or timm. torchvision: a .pth "
            "that loads strictly into torchvision's ResNet with fc = nn.Identity(). timm: loads strictly into "
            "timm.create_model(NAME, num_classes=0). torchscript, onnx: include the input normalization. hf: a folder "
            "with config.json, model.safetensors and a model card. Default: safetensors, or hf with --push.",
        ),
    ] = None,
    backbone: Annotated[
        BackboneName | None,
        typer.Option(help="Trained network of a run, or its momentum (EMA) encoder. Default: online."),
    ] = None,
    momentum: Annotated[bool, earlier_name("--momentum")] = False,
    license_: Annotated[
        str | None,
        typer.Option(
            "--license",
            help="License in the model card of hf, such as mit. Default: a placeholder to fill in.",
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="ORG/NAME",
            help="Upload the folder of hf to this model on the Hugging Face hub, as one commit. A missing repository "
            "is created. The token is that of `hf auth login` or HF_TOKEN.",
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Create the repository of --push as a private one.")
    ] = False,
) -> None:
    """Export the backbone of a run, and check that the exported file gives the same features.

    Example: all4one export runs/cifar10 --format onnx --out cifar10.onnx
    """
    if private and push is None:
        raise UserError("has no effect without --push", where="--private", fix="add --push ORG/NAME")
    if push is not None and format_ not in (None, ExportFormat.HF):
        raise UserError("uploads the format hf", where="--push", fix="leave --format out")
    with collector_paused():
        from trainer.exports.export import export_backbone
        from trainer.exports.hub_upload import require_target, upload_folder
    if push is not None:
        require_target(push)
        out = out or Path(push.partition("/")[2])
    earlier = BackboneName.MOMENTUM if momentum else None
    which = value_of(backbone, earlier, was="--momentum", now="--backbone momentum")
    written, loads_into = export_backbone(
        run,
        out,
        format_name=format_ or (ExportFormat.HF if push else ExportFormat.SAFETENSORS),
        momentum=which == BackboneName.MOMENTUM,
        license=license_,
        repository=push,
    )
    typer.echo(f"wrote {written}: {loads_into}")
    if push is not None:
        upload = upload_folder(written, push, private=private)
        typer.echo(
            f"uploaded to {upload.url}: all4one.load_backbone({str(upload.address)!r}) loads this commit"
        )


def embed(
    source: Source,
    images: Images,
    out: Annotated[
        Path,
        typer.Option(
            help="Output file: .parquet with key, label and embedding, or .npy with the keys in a .txt."
        ),
    ] = Path("features.npy"),
    backbone: Annotated[
        BackboneName | None,
        typer.Option(help="Trained network of a run, or its momentum (EMA) encoder. Default: online."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 256,
) -> None:
    """Compute the features of images, resized and normalized as for evaluation. Each skipped image is printed with the
    reason.

    Example: all4one embed runs/cifar10 photos --out photos.parquet
    """
    with collector_paused():
        from launch.evaluate.embed import embed_images
    embed_images(source, images, out, backbone=backbone, batch=batch)


def patches(
    source: Source,
    images: Images,
    out: Annotated[Path, typer.Option(help="Output file that ends in .png, .pdf, .svg or .jpg.")] = Path(
        "patches.png"
    ),
    backbone: Annotated[
        BackboneName | None,
        typer.Option(help="Trained network of a run, or its momentum (EMA) encoder. Default: online."),
    ] = None,
    size: ImageSize = None,
    limit: Annotated[int, typer.Option(min=1, max=64, help="Number of images.")] = 8,
) -> None:
    """Draw the first images beside the principal components of their patch features. For a ViT, also draw where its
    class token looks.

    Example: all4one patches runs/imagenet_resnet50 photos --size 448
    """
    with collector_paused():
        from launch.evaluate.patches import draw_patches
    draw_patches(source, images, out, backbone=backbone, size=size, limit=limit)


def segment(
    source: Source,
    train: Annotated[
        Path,
        typer.Argument(
            metavar="TRAIN", show_default=False, help="Folder with images/ and masks/ to fit the classifier."
        ),
    ],
    validation: Annotated[
        Path,
        typer.Argument(
            metavar="VALIDATION", show_default=False, help="Folder with images/ and masks/ to evaluate on."
        ),
    ],
    backbone: Annotated[
        BackboneName | None,
        typer.Option(
            help="Evaluate only this backbone. Default: every backbone of the run.", show_default=False
        ),
    ] = None,
    size: ImageSize = None,
    nproc: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for the results. Default: segmentation.json in the run's folder, or NAME.segmentation.json "
            "beside a checkpoint or file."
        ),
    ] = None,
) -> None:
    """Evaluate patch features: a linear classifier gives each pixel a class. The backbone stays frozen.

    The mask of images/a/b.jpg is masks/a/b.png. Its pixels are numbers of classes, and 255 is none.

    Example: all4one segment runs/imagenet_resnet50 voc/train voc/val --size 448
    """
    with collector_paused():
        from launch.evaluate.segmentation import SegmentationJob
        from launch.evaluate.segmentation import segment as evaluate
    job = SegmentationJob(
        source=source, train=train, validation=validation, backbone=backbone, size=size, out=out
    )
    if code := evaluate(job, nproc):
        raise typer.Exit(code)
