"""Checks before a run starts. They report everything that would stop it at once, each problem with its fix."""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch

from data_pipelines.devices import count_gpus
from data_pipelines.errors import UserError
from data_pipelines.formatting import nearest_multiples
from data_pipelines.loading.mixed_order import order_of
from data_pipelines.shards.shard_set import ShardSet
from trainer.config.schema import Config
from trainer.distributed.batch_norm import require_group
from trainer.engine.lr_schedule import Schedule
from trainer.methods import Method
from trainer.monitoring.notifications import require_services
from trainer.monitoring.online_evaluation import require_metric
from trainer.networks.backbones import build_backbone
from trainer.networks.initial_weights import read_initial_weights
from trainer.runs.components import TrainSet, open_train_set, open_validation_set, total_steps
from trainer.runs.neighbor_copies import MODEL_HOLDERS

Found = TypeVar("Found")


def problems(config: Config, ranks: int, *, new_runs: int) -> list[UserError]:
    """Return the problems of a configuration on `ranks` ranks:

    - a set that is missing, stale, too small or has other classes
    - a batch size or a number of ranks that does not divide
    - a backbone, initial weights or a schedule that cannot be built
    - a metric for the best checkpoint that the run does not have
    - a service that is to tell people of the run, and does not exist
    - a disk without room for the checkpoints of `new_runs` new runs
    """
    found: list[UserError] = []

    def tried(work: Callable[..., Found], *arguments: Any) -> Found | None:
        try:
            return work(*arguments)
        except UserError as error:
            found.append(error)
            return None

    tried(_check_divides, config, ranks)
    tried(require_group, config.parallel.batch_norm_group, ranks)
    tried(_check_backbone, config, new_runs)
    tried(require_services, config.notify)
    train_set = tried(open_train_set, config.data)
    if train_set is not None:
        tried(_check_samples, config, ranks, train_set)
        tried(_check_schedule, config, len(train_set))
        if config.checkpoint.keep_best:
            tried(_check_keep_best, config, train_set.num_classes)
        if new_runs:
            tried(_check_room, config, train_set, new_runs)
    validation_set = tried(open_validation_set, config.data, train_set)
    if validation_set is not None:
        tried(_check_validation, train_set, validation_set, ranks)
    return found


def refuse(found: Sequence[UserError]) -> None:
    """Raise one UserError that lists each problem once, or nothing if there are no problems."""
    found = list({str(problem): problem for problem in found}.values())
    if len(found) == 1:
        raise found[0]
    if found:
        items = "\n".join("  - " + str(problem).replace("\n", "\n    ") for problem in found)
        raise UserError(f"{len(found)} problems would stop this run:\n{items}")


def require_devices(nproc: int) -> None:
    """Raise a UserError if this machine has GPUs, but fewer than `nproc`, or if its driver cannot be used."""
    devices = count_gpus()
    if 0 < devices < nproc:
        raise UserError(
            f"--nproc {nproc} asks for more processes than this machine has GPUs ({devices})",
            fix=f"use --nproc {devices} or less",
        )


def problems_of_memory(config: Config, nproc: int) -> list[UserError]:
    """Return the problem that the copies which `nproc` ranks of this machine keep for each other do not fit into its
    memory. Without such a problem the list is empty."""
    try:
        needed = copies_bytes(config, nproc)
    except UserError:  # `problems` reports it
        return []
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed <= memory:
        return []
    error = UserError(
        f"the copies that ranks keep for each other need {needed / 1e9:.1f} GB of host memory, and this machine has "
        f"{memory / 1e9:.1f} GB",
        where="checkpoint.replicate_every",
        fix="set checkpoint.replicate_every=0. The loss of a rank then costs the steps since the last checkpoint",
    )
    return [error]


def copies_bytes(config: Config, ranks: int) -> int:
    """Return the bytes of host memory for the copies of `checkpoint.replicate_every` on one node with all ranks.

    There are two generations. In each, every rank keeps its own shard of the optimizer's state and that of a neighbor,
    and `MODEL_HOLDERS` ranks keep the model. On more nodes, each has less of the shards.
    """
    if config.parallel.zero_stage == 0 or config.checkpoint.replicate_every == 0 or ranks == 1:
        return 0
    method = _method_without_weights(config, 0)
    model = sum(tensor.nbytes for tensor in method.state_dict().values())
    return 2 * (2 * _optimizer_bytes(config, method) + min(MODEL_HOLDERS, ranks) * model)


def divides(config: Config, ranks: int) -> bool:
    """Return whether the global batch can be split evenly over a number of ranks."""
    batch, unit = config.train.global_batch, ranks * config.train.grad_accum_steps
    return batch % unit == 0 and batch // unit >= 2


def _check_divides(config: Config, ranks: int) -> None:
    batch, parts = config.train.global_batch, config.train.grad_accum_steps
    unit = ranks * parts
    if not divides(config, ranks):
        near = " or ".join(map(str, nearest_multiples(batch, unit, least=2)))
        raise UserError(
            f"train.global_batch ({batch}) cannot be split evenly over {ranks} processes with {parts} micro-batches "
            "each, with at least 2 images in every micro-batch",
            fix=f"set train.global_batch to {near}",
        )


def _check_samples(config: Config, ranks: int, train_set: TrainSet) -> None:
    batch, unit = config.train.global_batch, ranks * config.train.grad_accum_steps
    samples = len(train_set)
    if samples < batch:
        most = samples // unit * unit
        smaller = f"set train.global_batch={most}, or " if most >= 2 * unit else ""
        raise UserError(
            f"the dataset has {samples} samples, which is less than one batch of {batch}",
            where=train_set.folder,
            fix=f"{smaller}{'raise data.max_samples' if config.data.max_samples else 'use a larger dataset'}",
        )
    if isinstance(train_set, ShardSet):  # a weight may be too small for an epoch
        order_of(train_set, seed=0, global_batch=batch, shuffle_block=config.data.shuffle_block)


def _check_schedule(config: Config, samples: int) -> None:
    steps = samples // config.train.global_batch
    if steps:
        Schedule.from_settings(config.optim, steps, config.train.epochs, config.train.max_steps)


def _check_backbone(config: Config, new_runs: int) -> None:
    backbone = config.backbone if new_runs else config.backbone.drawn()
    # Whether the network can be built does not depend on its random weights, which take up to seconds to draw.
    without_weights = nullcontext() if backbone.pretrained else torch.device("meta")
    with torch.random.fork_rng(devices=[]), _one_thread(), without_weights:
        build_backbone(backbone, *config.data.sizes)
    if backbone.init is not None:
        read_initial_weights(config.backbone, config.data.views[0].size)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute without OpenMP's threads. A process that has them cannot fork ranks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check_room(config: Config, train_set: TrainSet, runs: int) -> None:
    folder = config.run.folder.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        most = _most_checkpoints(config, len(train_set))
        wanted = runs * most * _checkpoint_bytes(config, train_set.num_classes)
    except UserError:  # `_check_backbone` reports it
        return
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise UserError(
            f"the disk has {free / 1e9:.1f} GB left, but the checkpoints need {wanted / 1e9:.1f} GB",
            where=folder,
            fix="free some space, lower checkpoint.keep_last, or set run.folder to a folder on another disk",
        )


def _most_checkpoints(config: Config, samples: int) -> int:
    """Return how many checkpoints a run has at a time at most."""
    settings = config.checkpoint
    steps_per_epoch = max(1, samples // config.train.global_batch)
    steps, interval = total_steps(config, steps_per_epoch), settings.interval(steps_per_epoch)
    written, permanent = 1, 0  # one at the end
    if interval:
        written += steps // interval
        permanent = steps // math.lcm(interval, settings.keep_every) if settings.keep_every else 0
    if settings.keep_best:
        written += steps // (config.eval.every_epochs * steps_per_epoch)
    # A new one is written before the oldest is deleted.
    most = settings.keep_last + 1 + permanent + bool(settings.keep_best)
    return most if settings.every_minutes else min(most, written)


def _checkpoint_bytes(config: Config, classes: int) -> int:
    """Return the bytes of weights, buffers and optimizer state, without allocating them."""
    method = _method_without_weights(config, classes)
    return _optimizer_bytes(config, method) + sum(tensor.nbytes for tensor in method.state_dict().values())


def _optimizer_bytes(config: Config, method: Method) -> int:
    states_per_weight = 2 if config.optim.name == "adamw" else 1
    return states_per_weight * sum(p.nbytes for p in method.parameters() if p.requires_grad)


def _method_without_weights(config: Config, classes: int) -> Method:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return config.method.build(build_backbone(config.backbone, config.data.views[0].size), classes)


def _check_keep_best(config: Config, classes: int) -> None:
    try:
        method = _method_without_weights(config, classes)
    except UserError:  # `_check_backbone` reports it
        return
    require_metric(config, method, classes)


def _check_validation(train_set: TrainSet | None, validation_set: ShardSet, ranks: int) -> None:
    if validation_set.num_classes == 0:
        raise UserError(
            "the validation set has no labels", where=validation_set.folder, fix="set data.validation=null"
        )
    if train_set is not None and train_set.num_classes and train_set.classes != validation_set.classes:
        raise UserError(
            f"the validation set has other classes than {train_set.folder}",
            where=validation_set.folder,
            fix="build both datasets from the same classes, or set data.validation=null",
        )
    if len(validation_set) < ranks:
        raise UserError(
            f"the validation set has only {len(validation_set)} samples for {ranks} processes",
            where=validation_set.folder,
        )
