"""Robustness: the error of a classifier on corrupted validation images (Hendrycks and Dietterich, ICLR 2019).

The classifier is that of `linear_fast`. It is fitted to features of clean images and does not change.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_pipelines.cores import cores_per_process
from data_pipelines.imaging.corruptions.corrupt import KINDS, LEVELS, corrupt, corruption_version
from data_pipelines.imaging.normalization import Normalization
from data_pipelines.loading.loaders import EvalLoader
from data_pipelines.progress import ProgressBars
from data_pipelines.settings import DataSettings
from data_pipelines.shards.shard_set import ShardSet
from trainer.distributed.collectives import all_reduce_sum, rank, world_size
from trainer.evaluation.features import BATCH, feature_widths, say_what_is_missing
from trainer.evaluation.linear_fast import LinearClassifier
from trainer.evaluation.measures.accuracy import count_right
from trainer.evaluation.training_state import TrainingState

CLEAN = "clean"
"""Name of the pass over the images as they are."""


class Robustness:
    """Measures classifiers on corrupted images. What is finished is kept in a file until all is done.

    Every rank makes the same calls.

    Args:
        backbones: the backbones by name, in evaluation mode. They are not changed.
        train_set: the dataset to whose features the classifiers are fitted.
        validation_set: the dataset whose images are corrupted.
        settings: executor, sizes and normalization of the backbones' recipe.
        weights: hash of the backbones' weights.
        state: file for the classifiers and the finished corruptions. A file of other weights, datasets, settings or
            corruptions is ignored.
        progress: output for the user.
    """

    def __init__(
        self,
        backbones: Mapping[str, nn.Module],
        train_set: ShardSet,
        validation_set: ShardSet,
        settings: DataSettings,
        *,
        weights: str,
        state: Path,
        progress: ProgressBars,
    ) -> None:
        self._backbones, self._validation_set, self._settings = backbones, validation_set, settings
        self._progress, self._size = progress, settings.views[0].size
        facts = {
            "weights": weights,
            "train": train_set.fingerprint,
            "validation": validation_set.fingerprint,
            "settings": settings.model_dump(mode="json", include={"executor", "eval_resize", "mean", "std"}),
            "size": self._size,
            "corruptions": corruption_version(),
        }
        self._state = TrainingState(state, facts)
        notes = self._state.notes()
        self._fits: dict[str, dict[str, Any]] = notes.get("fits", {})
        self._errors: dict[str, dict[str, list[float]]] = notes.get("errors", {})
        self._images: int = notes.get("images", 0)
        self._device = next(next(iter(backbones.values())).parameters()).device
        self._classifiers = self._saved_classifiers() if self._fits else {}

    @property
    def needs_classifiers(self) -> bool:
        """Whether `keep` must be called before `results`, because the file has no classifiers."""
        return not self._classifiers

    def keep(self, classifiers: Mapping[str, LinearClassifier]) -> None:
        """Use these classifiers of the backbones' features, by backbone, and save them."""
        self._classifiers = dict(classifiers)
        self._fits = {
            name: {
                "l2": found.l2,
                "held_out_top1": found.held_out_top1,
                "train_top1": found.train_top1,
                "converged": found.converged,
            }
            for name, found in classifiers.items()
        }
        self._save()

    def results(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Measure the error for each corruption that is not finished, and yield name and result of each backbone.

        Errors are fractions of the labeled, readable images of all ranks, in [0, 1]. The file is removed at the end.

        Raises:
            UserError: no image can be read.
        """
        for kind in (CLEAN, *KINDS):
            if kind not in self._errors:
                self._errors[kind] = self._measured(kind)
                self._save()
        for name in self._backbones:
            yield name, self._result(name)
        self._state.remove()

    def _result(self, name: str) -> dict[str, Any]:
        errors = {kind: self._errors[kind][name] for kind in KINDS}
        [clean] = self._errors[CLEAN][name]
        average = mean(error for of_kind in errors.values() for error in of_kind)
        return {
            "mean_corruption_error": average,
            "clean_error": clean,
            "relative_error": average - clean,
            "errors": errors,
            "classifier": "linear_fast",
            "l2": self._fits[name]["l2"],
            "image_size": self._size,
            "images": self._images,
            "corruptions": corruption_version(),
        }

    @torch.no_grad()
    def _measured(self, kind: str) -> dict[str, list[float]]:
        """Return the error of each backbone on this kind at each level, in one pass over the images."""
        levels = (0,) if kind == CLEAN else LEVELS
        right = torch.zeros(len(self._backbones), len(levels), dtype=torch.int64)
        images = 0
        settings = self._settings
        normalize = Normalization(settings.mean, settings.std, self._device)
        loader = EvalLoader(
            self._validation_set,
            settings,
            rank=rank(),
            world_size=world_size(),
            batch=BATCH,
            device=self._device,
        )
        with loader, ThreadPoolExecutor(settings.decode_threads or cores_per_process()) as pool:
            with self._progress.task(f"robustness: {kind}", len(loader)) as advance:
                for batch in loader:
                    known = batch.labels >= 0
                    labels = batch.labels[known]
                    images += len(labels)
                    pixels, ids = self._pixels(batch.images[known]), batch.ids[known].tolist()
                    for column, corrupted in enumerate(_corrupted(pixels, ids, kind, levels, pool)):
                        values = torch.from_numpy(corrupted).to(self._device).permute(0, 3, 1, 2)
                        normal = normalize(values, torch.empty_like(values, dtype=torch.float32))
                        for row, (name, backbone) in enumerate(self._backbones.items()):
                            logits = self._classifiers[name].logits(backbone(normal).float())  # [b, C]
                            right[row, column] += count_right(logits[:, None], labels)[0, 0].cpu()
                    advance("")
            if kind == CLEAN:
                say_what_is_missing(loader, self._validation_set, self._progress.say)
        total = int(all_reduce_sum(torch.tensor(images)))
        if kind == CLEAN:
            self._images = total
        wrong = (1 - all_reduce_sum(right).double() / total).tolist()
        return dict(zip(self._backbones, wrong, strict=True))

    def _pixels(self, images: Tensor) -> NDArray[np.uint8]:
        """Return the pixels `[b, S, S, 3]` of normalized images `[b, 3, S, S]`."""
        mean_, std = (
            images.new_tensor(values).view(3, 1, 1) for values in (self._settings.mean, self._settings.std)
        )
        pixels = ((images * std + mean_) * 255).round_().clamp_(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def _save(self) -> None:
        notes = {"fits": self._fits, "errors": self._errors, "images": self._images}
        self._state.save(_tensors(self._classifiers), notes)

    def _saved_classifiers(self) -> dict[str, LinearClassifier]:
        classes = self._validation_set.num_classes
        classifiers = {}
        for name, width in feature_widths(self._backbones, self._size).items():
            weights, mean_, std = (
                torch.empty(shape, device=self._device)
                for shape in ((classes, width + 1), (width,), (width,))
            )
            classifiers[name] = LinearClassifier(weights, mean_, std, **self._fits[name])
        self._state.load(_tensors(classifiers))
        return classifiers


def _tensors(classifiers: Mapping[str, LinearClassifier]) -> dict[str, Tensor]:
    return {
        f"{name}.{part}": getattr(classifier, part)
        for name, classifier in classifiers.items()
        for part in ("weights", "mean", "std")
    }


def _corrupted(
    pixels: NDArray[np.uint8], ids: Sequence[int], kind: str, levels: Sequence[int], pool: ThreadPoolExecutor
) -> Iterator[NDArray[np.uint8]]:
    """Yield images `[b, S, S, 3]` at each level. The threads make later levels while an earlier one is used."""
    if kind == CLEAN or not ids:
        yield from (pixels for _ in levels)
        return
    made = [
        [pool.submit(corrupt, image, kind, level, sample) for image, sample in zip(pixels, ids, strict=True)]
        for level in levels
    ]
    for of_level in made:
        yield np.stack([future.result() for future in of_level])
