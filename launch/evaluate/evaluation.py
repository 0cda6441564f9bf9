"""`all4one eval`: evaluate a backbone, and report the results as a table and as JSON."""

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import require_writable
from data_pipelines.progress import ProgressBars
from data_pipelines.settings import DataSettings
from data_pipelines.shards.mixed_set import open_train_shards, with_classes_of
from data_pipelines.shards.shard_set import ShardSet
from launch.evaluate.backbone_job import BackboneJob, run_in_processes, use_own_cores
from launch.evaluate.results import Results
from trainer.distributed.collectives import rank
from trainer.evaluation.evaluators import Evaluators, LinearClassifiers, evaluate_features, require_enough
from trainer.evaluation.features import features_of_set
from trainer.evaluation.finetune import finetune
from trainer.evaluation.linear_protocol import linear_protocol
from trainer.evaluation.online_classifier import online_accuracy
from trainer.evaluation.robustness import Robustness
from trainer.inference.loaded_backbones import load_same_on_all_ranks
from trainer.networks.backbones import Backbone
from trainer.runs.components import open_validation_set

ONLINE_CLASSIFIER = "online_classifier"
"""Name of the evaluator that applies the classifier that trained beside the backbone."""


class EvalJob(BackboneJob):
    """The arguments of `all4one eval`."""

    command, results, worker = "eval", "eval", "launch.evaluate.worker"

    evaluators: Evaluators
    """The evaluators to run."""
    train: str | None = None
    """Labeled shards to train on. None: the training set of the backbone."""
    validation: str | None = None
    """Labeled shards to evaluate on. None: the validation set of the backbone's recipe."""


def evaluate(job: EvalJob, nproc: int) -> int:
    """Evaluate with `nproc` processes on this machine. Return the exit code.

    Raises:
        UserError: as for `evaluate_backbone`, or there are more processes than GPUs.
    """
    if nproc == 1:
        require_writable(job.place)
        evaluate_backbone(job)
        return 0
    return run_in_processes(job, nproc)


def evaluate_backbone(job: EvalJob) -> None:
    """Evaluate the backbones of a run, or of an exported file. Each evaluator's results are written immediately.

    Every rank of a process group makes the same call. The first rank writes and prints.

    Raises:
        UserError: there is no such source or backbone, or datasets are missing, unlabeled or of different classes.
    """
    trained = load_same_on_all_ranks(job.source)
    backbones = trained.select(job.backbone)
    settings = trained.recipe.data
    train_set = open_labeled_set(job.train, lambda: open_train_shards(settings), settings, "--train")
    validation_set = with_classes_of(
        open_labeled_set(
            job.validation, lambda: open_validation_set(settings, None), settings, "--validation"
        ),
        train_set,
        None if job.train else settings.classes,
    )
    if train_set.classes != validation_set.classes:
        raise UserError(
            f"has different classes than {train_set.folder}",
            where=validation_set.folder,
            fix="give two datasets with the same classes",
        )
    if rank() == 0:
        warn_of_known_images(train_set, validation_set, settings)
    train_labels = train_set.index["label"].astype(np.int64)
    require_enough(job.evaluators, train_labels, train_set.classes)
    use_own_cores()
    facts: dict[str, Any] = {
        "source": job.source_name,
        "checkpoint": trained.recipe.source,
        "weights": fingerprint(trained.backbones),
        "train": str(train_set.folder),
        "validation": str(validation_set.folder),
        "train_index": train_set.fingerprint,
        "validation_index": validation_set.fingerprint,
        "images": int((validation_set.index["label"] >= 0).sum()),
    }
    evaluated_weights = facts["weights"] if job.backbone is None else fingerprint(backbones)
    results, progress = Results(job.place, facts, quiet=rank() > 0), ProgressBars(rank() == 0)

    def note(backbone: str, evaluator: str, result: dict[str, Any]) -> None:
        results.add(backbone, evaluator, result)
        if rank() == 0:
            results.write()

    robustness = None
    if job.evaluators.robustness:
        robustness = Robustness(
            backbones,
            train_set,
            validation_set,
            settings,
            weights=evaluated_weights,
            state=job.place.with_name(f"{job.place.stem}.robustness.safetensors"),
            progress=progress,
        )
    needs_classifiers = robustness is not None and robustness.needs_classifiers
    if job.evaluators.of_features or needs_classifiers:
        bank = features_of_set(backbones, train_set, settings, progress, f"features of {train_set.folder}")
        classifiers = LinearClassifiers(bank, train_set.num_classes)
        if job.evaluators.of_features:
            queries = features_of_set(
                backbones, validation_set, settings, progress, f"features of {validation_set.folder}"
            )
            results.found["images"] = queries.count_labeled()
            for evaluated in evaluate_features(
                job.evaluators, bank, queries, train_labels, train_set.classes, classifiers
            ):
                note(*evaluated)
            # A classifier knows only the classes of its own training set, in their order.
            own, classifier = queries.by_backbone.get("online"), trained.classifier
            if classifier is not None and own is not None and trained.trained_on == train_set.fingerprint:
                note("online", ONLINE_CLASSIFIER, asdict(online_accuracy(classifier, own, queries.labels)))
            del queries, own
        if robustness is not None and needs_classifiers:
            robustness.keep({name: classifiers.of(name) for name in backbones})
        del bank, classifiers
    if robustness is not None:
        for name, result in robustness.results():
            note(name, "robustness", result)
    if job.evaluators.linear is not None:
        state = job.place.with_name(f"{job.place.stem}.linear.safetensors")
        for name, result in linear_protocol(
            backbones,
            train_set,
            validation_set,
            settings,
            job.evaluators.linear,
            weights=evaluated_weights,
            state=state,
            progress=progress,
        ):
            note(name, "linear", result)
    if job.evaluators.finetune is not None:
        state = job.place.with_name(f"{job.place.stem}.finetune.safetensors")
        for finetuned in finetune(
            backbones,
            train_set,
            validation_set,
            settings,
            job.evaluators.finetune,
            weights=evaluated_weights,
            state=state,
            progress=progress,
        ):
            note(*finetuned)
    if rank() == 0:
        results.show()
        print(f"wrote {results.path}")


def warn_of_known_images(train_set: ShardSet, validation_set: ShardSet, settings: DataSettings) -> None:
    """Print a warning if the validation images are those on which the evaluators or the backbone were trained."""
    learned = _resolved(validation_set.folder) in map(_resolved, settings.train_places)
    if validation_set.fingerprint == train_set.fingerprint or learned:
        print(
            f"warning: {validation_set.folder}: the validation images are also training images, so the results say "
            "nothing about new images\n  fix: give other images with --validation SHARDS",
            file=sys.stderr,
        )


def _resolved(folder: Path | str) -> Path:
    return Path(str(folder)).resolve()


def fingerprint(backbones: Mapping[str, Backbone]) -> str:
    """Return a hash of all weights. Results of other weights must not be mixed with these."""
    digest = hashlib.blake2b(digest_size=8)
    for backbone in backbones.values():
        for name, value in backbone.state_dict().items():
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def open_labeled_set(
    given: Path | str | None, of_recipe: Callable[[], ShardSet | None], settings: DataSettings, option: str
) -> ShardSet:
    """Open the labeled set that an option gives, or else the one of the evaluated backbone's recipe.

    Args:
        given: folder or URL of the option. None: it is not given.
        of_recipe: opens the recipe's set. It returns None if the recipe has none.
        settings: settings of the data, for the given set.
        option: the option's name.

    Raises:
        UserError: the set cannot be opened or has no labels.
    """
    if given is not None:
        return _with_labels(ShardSet.open(given, settings), option)
    fix = f"give a labeled dataset with {option} SHARDS"
    try:
        found = of_recipe()
    except UserError as error:  # an exported file may have come here without its sets
        raise UserError(
            f"{error.what}. The recipe of the evaluated backbone names this set",
            where=error.where,
            fix=fix if error.fix is None else f"{fix}. To use the set of the recipe: {error.fix}",
        ) from None
    if found is None:
        raise UserError("the recipe names no labeled dataset for this option", where=option, fix=fix)
    return _with_labels(found, option)


def _with_labels(shards: ShardSet, option: str) -> ShardSet:
    if shards.num_classes == 0 or not (shards.index["label"] >= 0).any():
        raise UserError(
            "has no labels", where=shards.folder, fix=f"give a labeled dataset with {option} SHARDS"
        )
    return shards
