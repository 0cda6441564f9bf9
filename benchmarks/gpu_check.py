"""One sitting of about ten minutes on one GPU: a Markdown table of what works there and how fast, for
docs/benchmarks.md.

    python benchmarks/gpu_check.py [--only ROW …] [--keep FOLDER]
    python benchmarks/gpu_check.py --device cpu --quick

Every row is a process of its own with a time limit. A row that fails is shown with its reason, the others still run,
and the exit code is 1. `--quick` takes tiny networks and few steps: it shows that the check works, and measures
nothing.
The row of lost ranks needs two GPUs: NCCL refuses two ranks on one. The others use the first GPU only.
Photographs are replaced by 2,048 JPEGs of the same size, which are noise of several scales.
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch
from checked_rows import Row, run_row

from data_pipelines.devices import count_gpus
from trainer.config.schema import load_config
from trainer.methods import available
from trainer.profiling.dry_run.cards import CARDS
from trainer.profiling.dry_run.estimate import Estimate, estimate
from trainer.profiling.dry_run.record import StepRecord
from trainer.profiling.peak import find_card

ROOT = Path(__file__).resolve().parents[1]
ALL4ONE = (sys.executable, "-P", "-m", "launch.cli")
IMAGES, HEIGHT, WIDTH = 2048, 375, 500
TINY = (
    "backbone.width=8",
    "method.projector_hidden=32",
    "method.predictor_hidden=32",
    "method.embedding_dim=16",
    "method.queue.size=200",
)
STEPS = 20


class Check:
    """The rows of one machine.

    Args:
        folder: takes data, runs and logs.
        cpu: whether to use no GPU.
        quick: whether everything is tiny.
    """

    def __init__(self, folder: Path, *, cpu: bool, quick: bool) -> None:
        self._folder, self._cpu, self._quick = folder, cpu, quick
        self.device = "CPU" if cpu else torch.cuda.get_device_name(0)
        self._card = find_card(self.device) or CARDS["h100"]
        digits = folder / "digits"
        self._digits = (f"data.train={digits}/train", f"data.validation={digits}/validation")
        self._common = ("digits_demo", *self._digits, "optim.warmup_epochs=1", "eval.every_epochs=0")
        size = ("train.global_batch=64",) if quick else ("train.precision=bf16", "train.global_batch=256")
        self._large = (
            *(
                ("digits_demo", *self._digits, *TINY)
                if quick
                else ("imagenet_resnet50", *self._photographs())
            ),
            *size,
        )

    def _photographs(self) -> tuple[str, ...]:
        return f"data.train={self._folder}/photographs", "data.validation=null"

    def prepare(self) -> list[Row]:
        """Return the rows that make the data of the others."""
        digits = Row(
            "digits", [*ALL4ONE, "data", "build", "digits", f"{self._folder}/digits"], self._limit(60), _built
        )
        if self._quick:
            return [digits]
        images, built = self._folder / "images", self._folder / "photographs"
        _make_images(images)
        command = [*ALL4ONE, "data", "build", str(images), str(built)]
        return [digits, Row("photographs", command, self._limit(60), _built)]

    def rows(self) -> list[Row]:
        """Return the rows of the table."""
        golden = [str(path) for path in sorted((ROOT / "tests/golden").glob("*.npz"))]
        device = "cpu" if self._cpu else "cuda"
        command = [sys.executable, str(ROOT / "benchmarks/golden.py"), *golden, "--device", device]
        rows = [Row("golden", command, self._limit(60), _last_line)]
        rows += [self._training(method) for method in available()]
        rows += [
            self._roofline(),
            self._profile("opencv"),
            self._profile("dali"),
            self._profile("dali, compile", "parallel.compile=true"),
            self._resume(),
            self._lost_ranks(),
        ]
        return rows

    def _training(self, method: str) -> Row:
        run = self._folder / "runs" / method
        sizes = ", projector_hidden: 32, embedding_dim: 16" if self._quick else ""
        small = ("backbone.width=8",) if self._quick else ()
        command = [
            *(
                *ALL4ONE,
                "train",
                *self._common,
                *small,
                f"method={{name: {method}{sizes}}}",
                f"train.max_steps={STEPS}",
            ),
            *(f"run.folder={run.parent}", f"run.name={method}", "metrics.log_every=1", "--nproc", "1"),
        ]
        return Row(method, command, self._limit(60), lambda said: _losses(run / "metrics.jsonl"))

    def _roofline(self) -> Row:
        command = [*ALL4ONE, "profile", *self._large, "--dry-run", "--world", "1"]
        command += ["--out", str(self._folder / "roofline")]
        return Row("roofline", command, self._limit(120), lambda said: self._estimated())

    def _profile(self, name: str, *overrides: str) -> Row:
        executor = f"data.executor={'dali' if overrides else name}"
        out = self._folder / f"profile_{name.replace(', ', '_')}"
        command = [
            *(*ALL4ONE, "profile", *self._large, *overrides, executor, "optim.warmup_epochs=0"),
            *("--nproc", "1", "--steps", "2" if self._quick else str(STEPS), "--out", str(out)),
        ]
        seconds = self._limit(300 if overrides else 120)  # a network is compiled for two batch sizes
        return Row(name, command, seconds, lambda said: self._measured(out / "profile.json"))

    def _resume(self) -> Row:
        steps = ("train.max_steps=40", "checkpoint.every_steps=5", "train.deterministic=true")
        small = TINY if self._quick else ()
        command = [*ALL4ONE, "verify-resume", *self._common, *small, *steps, "--kills", "1", "--nproc", "1"]
        return Row("kill and resume", command, self._limit(180), _bitwise)

    def _lost_ranks(self) -> Row:
        name = "lost ranks"
        if not self._cpu and torch.cuda.device_count() < 2:
            command = [sys.executable, "-c", "print('not run: this machine has one GPU')"]
            return Row(name, command, self._limit(10), _last_line)
        kills, steps = ("4", "15") if self._quick else ("20", "100")
        command = [sys.executable, str(ROOT / "benchmarks/lost_ranks.py"), "--kills", kills, "--steps", steps]
        command += ["--settings", "train.deterministic=true"]
        return Row(name, command, self._limit(300), _lost)

    def _limit(self, seconds: float) -> float:
        """Return the time limit of a row that takes at most about half of `seconds` on a GPU."""
        return 4 * seconds if self._cpu else seconds

    def _expected(self) -> Estimate:
        config = load_config(self._large[0], self._large[1:])
        record = StepRecord.from_json(json.loads((self._folder / "roofline/dry_run.json").read_text()))
        sizes = [view.size for view in config.data.views]
        rows = config.train.global_batch
        return estimate(record, self._card, world_size=1, rows=rows, view_sizes=sizes)

    def _estimated(self) -> str:
        found = self._expected()
        return f"{found.images_per_second:.0f} images/s, MFU {100 * found.mfu:.0f} % on {self._card.name} (estimate)"

    def _measured(self, path: Path) -> str:
        found = json.loads(path.read_text())
        images = {name: found["global_batch"] / found[name] for name in ("step", "without_data", "loader")}
        said = [
            f"{images['step']:.0f} images/s, {images['without_data']:.0f} on loaded data",
            f"loader alone {images['loader']:.0f}",
            f"MFU {100 * found['mfu']:.1f} % of {found['peak_words']}",
        ]
        if not self._cpu and (self._folder / "roofline/dry_run.json").exists():
            part = images["without_data"] / self._expected().images_per_second
            said.append(f"{part:.2f} of the roofline of {self._card.name}")
        return "; ".join(said)


def _make_images(folder: Path) -> None:
    """Write JPEGs of two classes whose size and content are about those of photographs."""
    noise = np.random.default_rng(0)
    for number in range(IMAGES):
        path = folder / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        layers = [noise.normal(0, 40, (HEIGHT // side, WIDTH // side, 3)) for side in (100, 25, 5)]
        layers = [cv2.resize(layer, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for layer in layers]
        pixels = np.clip(128 + sum(layers), 0, 255).astype(np.uint8)  # [HEIGHT, WIDTH, 3]
        cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])


def _built(said: str) -> str:
    return "built"


def _last_line(said: str) -> str:
    return said.strip().splitlines()[-1]


def _losses(metrics: Path) -> str:
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    if len(losses) != STEPS or not np.isfinite(losses).all():
        raise ValueError(f"{len(losses)} steps with losses {losses}")
    return f"{STEPS} steps, loss {losses[0]:.3f} to {losses[-1]:.3f}"


def _bitwise(said: str) -> str:
    if "bitwise equal" not in said:
        raise ValueError(_last_line(said))
    return "bitwise equal"


def _lost(said: str) -> str:
    found = json.loads(said[said.rindex('{\n  "seed"') :])
    seconds = found["seconds_to_next_step"]["median"]
    return f"{found['kills']} kills, bitwise equal, {found['steps_redone']} steps redone, next step after {seconds} s"


def main() -> int:
    """Print the table. Return 1 if a row failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny networks and few steps")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows to run; those of the data always run")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep data, runs and logs there")
    args = parser.parse_args()
    # A row in progress has a session of its own, which only an orderly end of this process kills.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    cpu = args.device == "cpu"
    if not cpu and not count_gpus():
        print("gpu_check: no GPU here. `--device cpu --quick` shows that the check works", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="all4one-gpu-check-") as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        check = Check(folder, cpu=cpu, quick=args.quick)
        rows = check.rows()
        if unknown := set(args.only or ()) - {row.name for row in rows}:
            names = ", ".join(row.name for row in rows)
            parser.error(f"there is no row {', '.join(sorted(unknown))}; rows: {names}")
        rows = [*check.prepare(), *(row for row in rows if args.only is None or row.name in args.only)]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "" if cpu else "0"}
        environment_of_two = os.environ | {"CUDA_VISIBLE_DEVICES": "" if cpu else "0,1"}
        failed = False
        print(f"## {check.device}, {date.today()}\n")
        print(
            f"torch {torch.__version__}, CUDA {torch.version.cuda}, {os.cpu_count()} cores {platform.machine()}\n"
        )
        print("| what | result | time |\n| --- | --- | ---: |")
        for row in rows:
            outcome = run_row(row, folder, environment_of_two if row.name == "lost ranks" else environment)
            failed |= not outcome.passed
            print(outcome.as_markdown(), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
