"""`all4one profile --dry-run`: what a recipe's step needs on GPUs, seen on a machine without one."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from data_pipelines.console import plain_console
from data_pipelines.errors import UserError
from data_pipelines.loading.prefetching_batches import BatchPartition
from launch.profile.profile_run import prepare, without_occasional_work
from trainer.config.schema import Config
from trainer.profiling.dry_run.cards import CARDS, Card
from trainer.profiling.dry_run.estimate import KERNELS, LAUNCHES, MESSAGES, Estimate, estimate
from trainer.profiling.dry_run.record import StepRecord
from trainer.profiling.dry_run.recorder import DryRunFailed, record_steps
from trainer.runs.components import open_train_set
from trainer.runs.run_folder import RunFolder

IMAGENET_CLASSES = 1000


def profile_dry(
    recipe: str, overrides: Sequence[str], *, device: str, world_size: int, out: Path | None
) -> int:
    """Record a step without a device, and print what it needs and the time that it is expected to take. Return 0.

    Args:
        recipe: the recipe.
        overrides: `key=value` settings.
        device: the GPU of each rank, a key of `CARDS`.
        world_size: number of ranks.
        out: folder that receives `dry_run.json`. None: none is written.

    Raises:
        UserError: the recipe does not fit the ranks, or cannot be run without a device.
    """
    if device not in CARDS:
        raise UserError(
            f"there is no card {device!r}", where="--device", fix=f"choose from {', '.join(CARDS)}"
        )
    config = without_occasional_work(recipe, overrides)
    batch, accumulation = config.train.global_batch, config.train.grad_accum_steps
    rows = BatchPartition(0, world_size, batch, accumulation).batch * accumulation
    run = RunFolder(out) if out else None
    if run:
        prepare(run, config)
    console = plain_console()
    console.print(
        f"dry run of {recipe} on one of {world_size} ranks; nothing is computed, and no time is measured"
    )
    record = _record(config, world_size)
    expected = estimate(
        record,
        CARDS[device],
        world_size=world_size,
        rows=rows,
        view_sizes=[view.size for view in config.data.views],
        batch_norm_group=config.parallel.batch_norm_group,
    )
    for table in (_parts(expected), _messages(record), _facts(record, expected, CARDS[device])):
        console.print(table)
    console.print(_places(record))
    console.print(
        f"Expected to be bound by {expected.bound}: {1000 * expected.step:.1f} ms per step, "
        f"{expected.images_per_second:.0f} images/s on each GPU. {_advice(expected.bound, config)}",
        soft_wrap=True,
    )
    if run:
        (run.path / "dry_run.json").write_text(json.dumps(record.as_json(), indent=1))
        console.print(f"wrote {run.path}/dry_run.json")
    return 0


def _advice(bound: str, config: Config) -> str:
    if bound == MESSAGES:
        return (
            "Give each GPU more images. parallel.batch_norm_group=8 and parallel.batch_norm=rank send less, but change "
            "what is learned."
        )
    settings = {
        "parallel.compile=true fuses operations": not config.parallel.compile,
        "more images for each GPU take as many launches": bound == LAUNCHES,
        "train.precision=bf16 moves half the bytes": bound == KERNELS and config.train.precision == "fp32",
    }
    helpful = [setting for setting, helps in settings.items() if helps]
    return f"What may help: {', '.join(helpful)}." if helpful else ""


def _record(config: Config, world_size: int) -> StepRecord:
    [record] = record_steps([config], world_size, _classes(config))
    if isinstance(record, UserError):
        raise record
    if isinstance(record, DryRunFailed):
        *_, last = str(record).strip().splitlines()
        raise UserError(
            f"the step cannot be run without a device: {last}",
            where="dry run",
            fix="profile it on a GPU, without --dry-run",
        )
    return record


def _classes(config: Config) -> int:
    """Return the number of classes of the training set, or that of ImageNet if there is no set on this machine."""
    try:
        return open_train_set(config.data).num_classes
    except UserError:
        return IMAGENET_CLASSES


def _parts(expected: Estimate) -> Table:
    table = _table("kernels by part of the step (estimate)", "part", "kind", "ms")
    for (part, kind), seconds in sorted(expected.parts.items(), key=lambda item: -item[1]):
        if seconds >= 0.005 * expected.kernels:
            table.add_row(part, kind, f"{1000 * seconds:.2f}")
    return table


def _messages(record: StepRecord) -> Table:
    table = _table("messages of each rank per step (dry run)", "content", "", "number", "MB")
    for kind, (number, size) in sorted(record.message_totals().items(), key=lambda item: -item[1][1]):
        table.add_row(kind, "", str(number), f"{size / 1e6:.2f}")
    return table


def _facts(record: StepRecord, expected: Estimate, card: Card) -> Table:
    table = Table(box=None, show_header=False)
    fits = "fits" if record.peak_bytes < 0.9 * card.memory else "does NOT fit"
    rows = {
        "memory (dry run)": f"{record.peak_bytes / 1e9:.1f} GB at most, {record.state_bytes / 1e9:.1f} GB between "
        f"steps; {fits} into the {card.memory / 1e9:.0f} GB of the card {card.name}",
        "work (dry run)": f"{record.flops / 1e12:.2f} TFLOP, {record.bytes / 1e9:.0f} GB moved, {record.launches} "
        "kernels",
        "host waits (dry run)": f"{record.host_waits.total()} per step, and {record.device_mixes} operations "
        "on mixed devices",
        "kernels (estimate)": f"{1000 * expected.kernels:.1f} ms, one after the other",
        "launches (estimate)": f"{1000 * expected.launches:.1f} ms of the host, at the same time",
        "messages (estimate)": f"{1000 * expected.awaited:.1f} ms awaited, {1000 * expected.gradients:.1f} ms of "
        "gradients beyond the backward pass",
        "MFU (estimate)": f"{100 * expected.mfu:.0f} %",
        "data (estimate)": f"{expected.images_per_second:.0f} images/s for each GPU: {expected.cores:.1f} cores of the "
        "opencv executor, or data.executor=dali",
    }
    if record.graphs is not None:
        rows["torch.compile (dry run)"] = (
            f"{record.graphs.number} graphs with {record.graphs.breaks.total()} breaks; all other lines describe the "
            "step without it"
        )
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _places(record: StepRecord) -> str:
    """Return where the host waits, where devices are mixed, and why graphs end, one in a line."""
    waits = record.host_waits.most_common(5)
    lines = [f"  {times} x {w.kind} ({w.operation}) at {w.where}" for w, times in waits]
    lines += [
        f"  {times} x mixed devices ({m.operation}) at {m.where}" for m, times in record.mixes.most_common(5)
    ]
    found = (
        "\n".join(["host waits and mixed devices:", *lines]) if lines else "no host waits, no mixed devices"
    )
    if record.graphs is None or not record.graphs.breaks:
        return found
    breaks = record.graphs.breaks.most_common(5)
    return "\n".join([found, "breaks of graphs:", *(f"  {times} x {reason}" for reason, times in breaks)])


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns, box=None, title=title, title_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    return table
