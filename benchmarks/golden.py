"""Run one All4One step on golden files and print its error against them.

    python benchmarks/golden.py tests/golden/all4one_a.npz tests/golden/all4one_b.npz [--nproc 2 | --device cuda]

A golden file holds one step of the published implementation in float64: weights, queue, two views' features,
losses, gradients and the queue afterwards; a JSON file of the same name holds sizes and losses. With `--nproc N`
the batch is cut over N processes, batch norm and the feature contrast spanning all of them: the numbers are the
same. Exits with 1 where any error exceeds 1e-6.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from trainer.contrast.queue import QueueSettings
from trainer.distributed.batch_norm import synchronize_batch_norm
from trainer.distributed.collectives import gather, rank, world_size
from trainer.methods.all4one import All4One, All4OneSettings
from trainer.methods.base import Output

TOLERANCE = 1e-6
PUBLISHED_NAMES = {
    "projector.": "projector.",
    "momentum_projector.": "momentum.projector.",
    "predictor.": "neighbor_predictor.",
    "predictor2.": "centroid_predictor.",
    "transformer_encoder.layers.": "transformer.layers.",
}
PUBLISHED_LOSSES = {
    "train_comb_loss": "loss",
    "train_nnclr_loss": "neighbor",
    "train_att_nnclr_loss": "centroid",
    "train_feature_loss": "feature",
    "train_nn_acc": "neighbor_agreement",
    "train_z_std": "z_std",
}


class Identity(nn.Module):
    """A backbone that hands on its input: the golden inputs are features."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim

    def forward(self, x: Tensor) -> Tensor:
        return x


def our_name(published: str) -> str:
    """Name of a weight in our state dict."""
    prefix = max((p for p in PUBLISHED_NAMES if published.startswith(p)), key=len)
    return PUBLISHED_NAMES[prefix] + published.removeprefix(prefix)


def build(golden: dict[str, np.ndarray], sizes: dict[str, float]) -> All4One:
    """The method in float64 with the file's weights and queue."""
    settings = All4OneSettings(
        projector_hidden=sizes["proj_hidden_dim"],
        predictor_hidden=sizes["pred_hidden_dim"],
        embedding_dim=sizes["proj_dim"],
        temperature=sizes["temperature"],
        transformer_dropout=0,
        feature_scope="global",
        queue=QueueSettings(size=sizes["queue_size"]),
    )
    method = All4One(settings, Identity(int(sizes["feature_dim"])), num_classes=0).double()  # type: ignore[arg-type]
    before = {
        k.removeprefix("before/"): torch.from_numpy(v) for k, v in golden.items() if k.startswith("before/")
    }
    state = {our_name(k): v for k, v in before.items() if not k.startswith("queue")}
    state |= {"queue.rows": before["queue"], "queue.labels": before["queue_y"]}
    missing, unexpected = method.load_state_dict(state, strict=False)
    if unexpected or set(missing) != {"queue.ids", "queue.head"}:
        raise SystemExit(f"names that do not fit: missing {missing}, unexpected {unexpected}")
    return method


def run_step(method: All4One, golden: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """One step on this rank's rows; everything that the file holds, under the file's names, over all ranks."""
    rows = slice(
        rank() * len(golden["input/y"]) // world_size(), (rank() + 1) * len(golden["input/y"]) // world_size()
    )
    assert method.queue is not None
    device = method.queue.rows.device
    labels = torch.from_numpy(golden["input/y"])[rows].to(device)
    views = [torch.from_numpy(golden[f"input/{x}"])[rows].to(device).requires_grad_() for x in ("x1", "x2")]
    out: Output = method(views, labels, labels)
    out.loss.backward()
    method.after_backward()

    def mean(x: Tensor) -> Tensor:
        x = x.clone()
        if world_size() > 1:
            dist.all_reduce(x)
        return x / world_size()

    results = {
        f"grad/x{i + 1}": gather(v.grad) / world_size() for i, v in enumerate(views) if v.grad is not None
    }
    parameters = dict(method.named_parameters())
    for name in golden:
        if name.startswith("grad/") and name not in ("grad/x1", "grad/x2"):
            gradient = parameters[our_name(name.removeprefix("grad/"))].grad
            assert gradient is not None, name
            results[name] = mean(gradient)
    results |= {name: mean(out.parts[ours].double()) for name, ours in PUBLISHED_LOSSES.items()}
    results |= {
        "after/queue": method.queue.rows,
        "after/queue_y": method.queue.labels,
        "after/queue_ptr": method.queue.head[None],
    }
    return {name: value.cpu() for name, value in results.items()}


def check(path: Path, device: torch.device) -> list[tuple[str, float]]:
    """Maximum absolute error of every quantity of one file."""
    golden = dict(np.load(path))
    sizes = json.loads(path.with_suffix(".json").read_text())
    method = synchronize_batch_norm(build(golden, sizes), torch.device("cpu")).to(device)
    assert isinstance(method, All4One)
    results = run_step(method, golden)
    expected = {k: torch.from_numpy(golden[k]) for k in results if k in golden}
    expected |= {k: torch.tensor(v, dtype=torch.float64) for k, v in sizes["losses"].items()}
    if world_size() > 1:  # a spread over this rank's rows only: not a number of the global batch
        results.pop("train_z_std"), expected.pop("train_z_std")
    return [(name, float((results[name] - expected[name]).abs().max())) for name in expected]


def _worker(index: int, nproc: int, device: str, store: Path, paths: list[Path], out: Path) -> None:
    torch.set_num_threads(1)
    if nproc > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=index, world_size=nproc)
    errors = {str(path): check(path, torch.device(device)) for path in paths}
    if index == 0:
        out.write_text(json.dumps(errors))
    if nproc > 1:
        dist.barrier()
        dist.destroy_process_group()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.npz")
    parser.add_argument("--nproc", type=int, default=1, help="processes that share the batch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device of one process")
    args = parser.parse_args()
    if args.device == "cuda" and args.nproc > 1:
        parser.error("--device cuda computes in one process: leave out --nproc")
    for path in args.files:
        if not path.is_file() or not path.with_suffix(".json").is_file():
            parser.error(f"{path}: needs the file and its .json beside it")
    with tempfile.TemporaryDirectory() as folder:
        store, out = Path(folder, "store"), Path(folder, "errors.json")
        # A fork need not import torch again. So far, this process has started none of torch's threads.
        start = "fork" if sys.platform == "linux" else "spawn"
        mp.start_processes(
            _worker, (args.nproc, args.device, store, args.files, out), nprocs=args.nproc, start_method=start
        )
        errors = json.loads(out.read_text())
    worst = 0.0
    for path, rows in errors.items():
        print(f"\n{path} on {args.nproc} process(es), {args.device}: maximum absolute error")
        for name, error in rows:
            print(f"  {name:<62} {error:.2e}{'' if error <= TOLERANCE else '  <-- above tolerance'}")
        worst = max(worst, *(error for _, error in rows))
    print(f"\nworst of {sum(map(len, errors.values()))} quantities: {worst:.2e} (tolerance {TOLERANCE:.0e})")
    return int(not worst <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
