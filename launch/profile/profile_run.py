"""`all4one profile`: measure a recipe's steps on this machine, and print the bottleneck."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from data_pipelines.console import plain_console
from data_pipelines.errors import UserError
from launch.local.processes import launch
from launch.local.runs import check
from launch.profile.plot import plot
from trainer.config.recipes import find_recipe
from trainer.config.schema import Config, load_config, override
from trainer.profiling.gpu_readings import readings_in_words
from trainer.runs.run_folder import RunFolder


def profile(
    recipe: str, overrides: Sequence[str], *, nproc: int, steps: int, out: Path | None, trace: bool
) -> int:
    """Measure, write `profile.json` and `profile.png`, and print the results. Return the exit code.

    Args:
        recipe: the recipe to profile.
        overrides: `key=value` settings.
        nproc: processes on this machine.
        steps: number of steps to measure of each kind.
        out: folder of the results. Earlier results in it are replaced. None: `profiles/RECIPE`.
        trace: whether to also write a torch.profiler trace of one step.
    """
    run, config = RunFolder(place(recipe, out)), settings(recipe, overrides)
    check(config, nproc, new_runs=0)
    prepare(run, config)
    print(f"profiling {recipe} on {nproc} process{'es' * (nproc > 1)}", flush=True)
    arguments = [str(run.path), str(steps), *(["--trace"] if trace else [])]
    if code := launch("launch.profile.worker", arguments, nproc=nproc, logs=run.logs):
        return code
    found = json.loads((run.path / "profile.json").read_text())
    plot(found, run.path / "profile.png")
    show(found)
    plain_console().print(
        f"wrote {run.path}/profile.json and profile.png" + (", and trace_rank_R.json" if trace else "")
    )
    return 0


def place(recipe: str, out: Path | None) -> Path:
    """Return the folder of the results."""
    return out or Path("profiles") / find_recipe(recipe).stem


def settings(recipe: str, overrides: Sequence[str], defaults: Mapping[str, Any] | None = None) -> Config:
    """Return a recipe's settings without occasional work. Raises a UserError if they cannot be profiled."""
    config = without_occasional_work(recipe, overrides, defaults)
    if config.parallel.zero_stage:
        raise UserError(
            "DeepSpeed does the communication of ZeRO stages 1 and 2, so its cost cannot be measured",
            where="parallel.zero_stage",
            fix="profile with parallel.zero_stage=0; stages 1 and 2 differ only in the update",
        )
    return config


def without_occasional_work(
    recipe: str, overrides: Sequence[str], defaults: Mapping[str, Any] | None = None
) -> Config:
    """Return a recipe's settings without evaluation and without health values."""
    loaded = load_config(recipe, overrides, defaults)
    return override(loaded, ["eval.every_epochs=0", "metrics.health_every=0"], where=recipe)


def prepare(run: RunFolder, config: Config) -> None:
    """Create the folder of a profile and remove an earlier result. Raises a UserError if it cannot be written."""
    try:
        run.logs.mkdir(parents=True, exist_ok=True)
        run.write_config(config)
        (run.path / "profile.json").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot be written: {error.strerror}", where=run.path, fix="choose another folder with --out"
        ) from None


def show(found: dict[str, Any]) -> None:
    """Print a profile as tables with its verdict."""
    console = plain_console()
    total = sum(found["parts"].values())
    parts = Table("part of a step", "ms", "fraction", box=None, title="training step", title_justify="left")
    for column in parts.columns[1:]:
        column.justify = "right"
    for name, seconds in found["parts"].items():
        parts.add_row(name, f"{1000 * seconds:.2f}", f"{100 * seconds / total:.1f} %")
    parts.add_row(
        "all parts",
        f"{1000 * total:.2f}",
        f"{100 * total / found['step']:.1f} % of the step measured as a whole",
    )
    console.print(parts)
    facts = Table(box=None, show_header=False)
    tera = {name: found[name] / 1e12 for name in ("flops", "peak")}
    rows = {
        "step": f"{_speed(found, 'step')} with {found['world_size']} process{'es' * (found['world_size'] > 1)}",
        "while the loader rests": _speed(found, "without_data"),
        "also without communication": _speed(found, "without_messages"),
        "of which overhead": f"{1000 * found['overhead']:.1f} ms that do not depend on the number of images",
        "loader alone": _speed(found, "loader"),
        "host to device": f"{1000 * found['transfer']:.1f} ms per step, in the loader's thread",
        "checkpoint stall": f"{1000 * found['checkpoint']:.0f} ms, every {found['checkpoint_every']} steps",
        "operations": f"{1000 * tera['flops']:.1f} GFLOP in each process: {tera['flops'] / found['step']:.3f} TFLOP/s",
        "MFU": f"{100 * found['mfu']:.1f} % of {found['peak_words']}",
        "communication": f"{found['message_bytes'] / 1e6:.2f} MB per step from each process",
        "memory": f"{found['memory'] / 1e9:.2f} GB in each process ({found['device']})",
    }
    if gpu := readings_in_words(found.get("gpu", {})):
        rows["GPU (NVML)"] = gpu
    for name, value in rows.items():
        facts.add_row(name, value)
    console.print(facts)
    console.print(f"\n{found['verdict']['words']}\n", soft_wrap=True)


def _speed(found: dict[str, Any], name: str) -> str:
    spread = f" (±{100 * found['spread'][name]:.1f} %)" if name in found["spread"] else ""
    return f"{1000 * found[name]:.1f} ms{spread}, {found['global_batch'] / found[name]:.0f} images/s"
