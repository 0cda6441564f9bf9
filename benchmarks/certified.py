"""Train beside recorded numbers of the published code, and print where and by how much the two differ.

    python benchmarks/certified.py [CASE ...] [--precision fp64 fp32] [--steps N] [--set KEY=VALUE ...]

`tests/golden/certified/` has the numbers: losses of every step, and norms and some entries of all weights. They come
from the published implementation, run by its own trainer on the same images, order, views, initial weights and
schedule (`certified_inputs.py`). Here, the same configuration runs on this package's engine. `--set` changes it, to see
what one setting does. The images are those of CIFAR-10 in the folder of test data (`--data`). Exits with 1 where
float64 losses differ by more than 1e-9 in the first 50 steps or more than 1e-6 later.
"""

import argparse
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import certified_inputs as inputs
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_pipelines.loading.prefetching_batches import Batch
from trainer.config.schema import Config, load_config
from trainer.distributed.process_group import initialize
from trainer.engine.deepspeed_engine import Engine
from trainer.evaluation.knn import knn_accuracy
from trainer.evaluation.online_classifier import online_accuracy
from trainer.methods import Method
from trainer.runs.components import IMAGES, build_engine, build_method

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden" / "certified"
CASES = ("all4one", "nnclr", "barlow_twins")
EARLY, EARLY_TOLERANCE, TOLERANCE = 50, 1e-9, 1e-6
KNN_IMAGES = 2000
"""Training images that vote in the nearest-neighbor evaluation, each third one."""
Values = Mapping[str, np.ndarray]


class Replay(NamedTuple):
    """What our engine computed."""

    losses: dict[str, list[float]]
    """By part, one number a step."""
    states: dict[int, dict[str, Tensor]]
    """Weights and buffers after some steps."""
    accuracies: dict[str, float]
    """After the last step of the schedule, fractions of the validation images."""


def configuration(case: str, precision: str, changes: Sequence[str]) -> Config:
    """Return the configuration of a case, with `KEY=VALUE` changes."""
    about = json.loads((FOLDER / f"{case}.json").read_text())
    return load_config(about["recipe"], [*about["overrides"], f"train.precision={precision}", *changes])


def start(method: Method) -> None:
    """Give the method its initial weights, by name. Momentum encoders start as copies."""
    values: dict[str, Tensor] = {n: p for n, p in method.named_parameters() if p.requires_grad}
    if method.queue is not None:
        values["queue.rows"] = method.queue.rows
    with torch.no_grad():
        for name, tensor in values.items():
            tensor.copy_(inputs.initial(name, tensor.shape))
        for copy, network in method.ema_pairs():
            copy.load_state_dict(network.state_dict())


def read(path: Path, per_class: int) -> inputs.Pictures:
    """Return images of a tar. Ends the program where there is none."""
    if not path.is_file():
        raise SystemExit(f"{path}: there is no such file\n  fix: name the folder of test data with --data")
    return inputs.read_pictures(path, per_class)


def replay(
    config: Config, pictures: inputs.Pictures, validation: inputs.Pictures, steps: int, moments: set[int]
) -> Replay:
    """Train `steps` steps, and keep the state after those in `moments`."""
    method = build_method(config, inputs.CLASSES, torch.device("cpu"))
    start(method)
    engine = build_engine(config, method, inputs.STEPS_PER_EPOCH, world_size=1)
    losses: dict[str, list[float]] = {}

    def record(_module: nn.Module, _arguments: Any, out: Any) -> None:
        # The engine rounds the losses that it returns to float32.
        for name, value in out.parts.items():
            losses.setdefault(name, []).append(float(value))

    method.register_forward_hook(record)
    states = {}
    for step in range(steps):
        engine.step(step, [_batch(pictures, step, config)])
        if step + 1 in moments:
            states[step + 1] = {name: t.detach().clone() for name, t in method.state_dict().items()}
    whole = steps == engine.total_steps
    return Replay(losses, states, _accuracies(engine, pictures, validation, config) if whole else {})


def _batch(pictures: inputs.Pictures, step: int, config: Config) -> Batch:
    dtype, rows = IMAGES[config.train.precision], torch.from_numpy(inputs.rows_of(step))
    views = [
        v.to(dtype).contiguous(memory_format=torch.channels_last) for v in inputs.views_of(pictures, step)
    ]
    return Batch(views, pictures.labels[rows], rows)


@torch.no_grad()
def _accuracies(
    engine: Engine, pictures: inputs.Pictures, validation: inputs.Pictures, config: Config
) -> dict[str, float]:
    method = engine.method.eval()
    chosen = slice(None, 3 * KNN_IMAGES, 3)
    dtype = IMAGES[config.train.precision]

    def features(pixels: np.ndarray) -> Tensor:
        images = inputs.normalized(pixels / 255.0).to(dtype)
        return torch.cat([method.backbone(part) for part in images.split(250)])

    known, tested = features(pictures.pixels[chosen]), features(validation.pixels)
    knn = knn_accuracy(known, pictures.labels[chosen], tested, validation.labels, num_classes=inputs.CLASSES)
    assert method.classifier is not None
    return {
        "knn": knn.top1,
        "online": online_accuracy(method.classifier, tested, validation.labels).top1,
    }


def compare(found: Replay, wanted: Values, steps: int) -> dict[str, Any]:
    """Return the differences from the published numbers, by what they are of."""
    out: dict[str, Any] = {"losses": {}, "weights": {}}
    for key in (k for k in wanted if k.startswith("loss/")):
        name = key.removeprefix("loss/")
        errors = np.abs(np.array(found.losses[name][:steps]) - wanted[key][:steps])
        out["losses"][name] = errors
    for step, state in found.states.items():
        norms = np.array([float(state[str(n)].double().norm()) for n in wanted["names"]])
        entries = np.stack([inputs.sample(state[str(n)]).numpy() for n in wanted["names"]])
        reference = wanted[f"norms/{step}"]
        out["weights"][step] = {
            "norms": float((np.abs(norms - reference) / np.maximum(reference, 1e-30)).max()),
            "entries": float(np.abs(entries - wanted[f"entries/{step}"]).max()),
        }
    return out


def first_above(errors: np.ndarray, limit: float) -> str:
    """Return the number of the first step (from 1) whose error is above a limit."""
    above = np.flatnonzero(~(errors <= limit))
    return str(above[0] + 1) if len(above) else "none"


def report(case: str, precision: str, differences: dict[str, Any], found: Replay, wanted: Values) -> bool:
    """Print the differences, and return whether they are within the tolerances."""
    print(f"\n{case}, {precision}: largest difference of losses from the published code")
    ends = [n for n in (1, 10, 50, 100, 200, 500) if n <= max(map(len, differences["losses"].values()))]
    print(f"  {'loss':<12}" + "".join(f"{f'to {n}':>10}" for n in ends) + "   first above 1e-9, 1e-6")
    within = True
    for name, errors in differences["losses"].items():
        largest = "".join(f"{errors[:n].max():>10.1e}" for n in ends)
        print(f"  {name:<12}{largest}   {first_above(errors, 1e-9)}, {first_above(errors, 1e-6)}")
        within &= bool((errors[:EARLY] <= EARLY_TOLERANCE).all() and (errors <= TOLERANCE).all())
    for step, worst in differences["weights"].items():
        print(
            f"  state after step {step}: norms {worst['norms']:.1e} (relative), entries {worst['entries']:.1e}"
        )
        within &= step > EARLY or max(worst.values()) <= EARLY_TOLERANCE
    for name, value in found.accuracies.items():
        print(f"  {name} accuracy: {value:.4f}, published {float(wanted[f'accuracy/{name}']):.4f}")
    return within


def join_alone() -> None:
    """Join a process group of this process alone."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in alone.items()} | {"CUDA_VISIBLE_DEVICES": ""}
    initialize()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--precision", nargs="+", choices=("fp64", "fp32"), default=["fp64", "fp32"])
    parser.add_argument("--steps", type=int, default=10**6, help="steps to train, at most")
    parser.add_argument("--data", type=Path, default=os.environ.get("ALL4ONE_TEST_DATA", "../shared/data"))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings to change")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    if unknown := set(args.cases) - set(CASES):
        parser.error(f"there is no case {min(unknown)}: choose of {', '.join(CASES)}")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    pictures = read(args.data / "cifar10" / "train.tar", inputs.PER_CLASS)
    validation = read(args.data / "cifar10" / "test.tar", inputs.VALIDATION_PER_CLASS)
    join_alone()
    results, within = {}, True
    for case in args.cases or CASES:
        for precision in args.precision:
            wanted = dict(np.load(FOLDER / f"{case}_{precision}.npz"))
            if str(wanted["pixels"]) != pictures.digest():
                raise SystemExit(
                    f"{args.data}: the images decode to other pixels than those of the recorded numbers\n"
                    "  fix: use the CIFAR-10 of the test data, and Pillow with libjpeg-turbo"
                )
            total = len(wanted["loss/loss"])
            steps = min(args.steps, total)
            config = configuration(case, precision, args.set)
            found = replay(config, pictures, validation, steps, {EARLY, total})
            differences = compare(found, wanted, steps)
            passed = report(case, precision, differences, found, wanted)
            within &= passed or precision != "fp64"
            losses = {name: errors.tolist() for name, errors in differences["losses"].items()}
            results[f"{case}_{precision}"] = {
                "steps": steps,
                "largest": {name: max(errors) for name, errors in losses.items()},
                "to_50": {name: max(errors[:EARLY]) for name, errors in losses.items()},
                "weights": differences["weights"],
                "accuracies": found.accuracies,
            }
    dist.destroy_process_group()
    print(f"float64 within {EARLY_TOLERANCE:.0e} to step {EARLY} and {TOLERANCE:.0e} later: {within}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return int(not within)


if __name__ == "__main__":
    sys.exit(main())
