"""`all4one embed`: write the features of images to a file, and print each skipped image."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch

from data_pipelines.cores import usable_cores
from data_pipelines.progress import ProgressBars
from trainer.inference.embed import embed
from trainer.inference.feature_files import feature_file, keys_of, require_place
from trainer.inference.loaded_backbones import load_backbones
from trainer.inference.source_images import no_images


def embed_images(source: Path, images: Sequence[str], out: Path, *, backbone: str | None, batch: int) -> None:
    """Write the features of all readable images.

    Args:
        source: folder of a run or of a checkpoint, or an exported file.
        images: images, folders, tars and datasets of shards.
        out: output file that ends in `.parquet` or `.npy`.
        backbone: `online` or `momentum`. None: the trained network of a run, or the network of a file.
        batch: images in one forward pass.

    Raises:
        UserError: the source, the backbone or the images do not exist, no image is readable, or the file cannot be
            written. In these cases there is no output file.
    """
    require_place(out)
    trained = load_backbones(source)
    _, network = trained.choose(backbone)
    torch.set_num_threads(usable_cores())
    bars = ProgressBars(visible=True)
    done = skipped = 0

    def tell(name: str, reason: str) -> None:
        nonlocal skipped
        skipped += 1
        bars.say(f"skipped {name}: {reason}")

    with feature_file(out, network.feature_dim) as write, bars.counter("features", total=None) as show:
        with closing(embed(network, images, trained.recipe.data, batch=batch, on_bad=tell)) as found:
            for rows in found:
                write(rows)
                done += len(rows.keys)
                show(done)
        if not done:
            raise no_images(images, skipped)
    beside = f", keys in {keys_of(out)}" if out.suffix == ".npy" else ""
    also = f"; {skipped:,} skipped" if skipped else ""
    print(f"wrote {out}: {done:,} images x {network.feature_dim} features{beside}{also}")
