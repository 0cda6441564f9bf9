"""`all4one segment`: evaluate patch features by linear segmentation, and report a table and JSON."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from data_pipelines.console import plain_console
from data_pipelines.files import require_writable, write_whole
from data_pipelines.formatting import percent
from data_pipelines.progress import ProgressBars
from data_pipelines.sources.masked_images import masked_images, require_usable
from launch.evaluate.backbone_job import BackboneJob, run_in_processes, use_own_cores
from launch.evaluate.evaluation import fingerprint
from trainer.distributed.collectives import rank, world_size
from trainer.evaluation.segmentation import BATCH, linear_segmentation
from trainer.inference.loaded_backbones import load_same_on_all_ranks
from trainer.inference.patch_features import accept_size, at_size


class SegmentationJob(BackboneJob):
    """The arguments of `all4one segment`."""

    command, results, worker = "segment", "segmentation", "launch.evaluate.segmentation_worker"

    train: Path
    """Folder of images and masks to fit."""
    validation: Path
    """Folder of images and masks to test."""
    size: int | None = None
    """Side of the images that the network gets, in pixels. None: that of its training."""


def segment(job: SegmentationJob, nproc: int) -> int:
    """Evaluate with `nproc` processes on this machine. Return the exit code.

    Raises:
        UserError: as for `segment_backbones`, or there are more processes than GPUs.
    """
    if nproc == 1:
        require_writable(job.place)
        segment_backbones(job)
        return 0
    return run_in_processes(job, nproc)


def segment_backbones(job: SegmentationJob) -> None:
    """Evaluate the backbones of a run, or of an exported file. Every rank of a process group makes the same call. The
    first rank writes and prints.

    Raises:
        UserError: there is no such source or backbone, it rejects the size, or as for `masked_images`,
            `require_usable` and `linear_segmentation`.
    """
    train, validation = masked_images(job.train), masked_images(job.validation)
    for pair in (train + validation)[rank() :: world_size()]:
        require_usable(pair)
    trained = load_same_on_all_ranks(job.source)
    backbones = trained.select(job.backbone)
    data = trained.recipe.data
    if job.size is not None:
        for backbone in backbones.values():
            accept_size(backbone, job.size)
        data = at_size(data, job.size)
    use_own_cores()
    found: dict[str, Any] = {
        "source": job.source_name,
        "checkpoint": trained.recipe.source,
        "weights": fingerprint(trained.backbones),
        "train": str(job.train),
        "validation": str(job.validation),
        "image_size": data.views[0].size,
        "backbones": {},
    }
    progress = ProgressBars(rank() == 0)
    for name, backbone in backbones.items():
        batches = sum(-(-len(images[rank() :: world_size()]) // BATCH) for images in (train, validation))
        with progress.task(f"patches of {name}", batches) as advance:
            result = linear_segmentation(backbone, train, validation, data, say=progress.say, advance=advance)
        found["backbones"][name] = asdict(result)
        if rank() == 0:
            write_whole(job.place, (json.dumps(found, indent=2) + "\n").encode())
    if rank() == 0:
        _show(found)
        print(f"wrote {job.place}")


def _show(found: dict[str, Any]) -> None:
    table = Table(
        *("backbone", "mIoU %", "pixel accuracy %", "classes", "patches"),
        title=f"linear segmentation of {found['validation']} by {found['source']}",
    )
    for name, result in found["backbones"].items():
        rows, columns = result["patches"]
        table.add_row(
            name,
            percent(result["miou"], unit=False),
            percent(result["pixel_accuracy"], unit=False),
            str(len(result["iou"])),
            f"{rows} x {columns}",
        )
    plain_console().print(table)
