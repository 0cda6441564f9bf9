"""What only a CUDA device can show. `make gpu-check` runs these; elsewhere they are skipped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def all4one(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "launch.cli", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    all4one("data", "build", "digits", folder)
    return folder


@pytest.mark.parametrize("executor", ["dali", "opencv"])
def test_bf16_training_learns_and_resumes_bitwise(digits: Path, tmp_path: Path, executor: str) -> None:
    all4one(
        "verify-resume",
        "digits_demo",
        f"data.train={digits}/train",
        f"data.validation={digits}/validation",
        f"data.executor={executor}",
        "train.max_steps=20",
        "train.deterministic=true",
        "optim.warmup_epochs=1",
        "checkpoint.every_steps=5",
        "--kills",
        1,
        "--nproc",
        1,
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_a_resnet50_in_bf16_is_profiled(digits: Path, tmp_path: Path, compiled: bool) -> None:
    """Prints images/s, the share of the card's peak, and what bounds the run."""
    all4one(
        "profile",
        "digits_demo",
        f"data.train={digits}/train",
        f"data.validation={digits}/validation",
        "backbone.name=resnet50",
        "data.views.0.size=224",
        "data.views.1.size=224",
        "data.eval_resize=256",
        "train.precision=bf16",
        "train.global_batch=128",
        "method.queue.size=98304",
        f"parallel.compile={compiled}",
        "--steps",
        20,
        "--out",
        tmp_path,
    )
    found = json.loads((tmp_path / "profile.json").read_text())
    assert 0 < found["mfu"] < 1
    assert found["transfer"] > 0
    assert sum(found["parts"].values()) == pytest.approx(found["step"], rel=0.2)


def test_the_guard_leaves_a_step_out_without_waiting_for_the_device() -> None:
    from trainer.engine.divergence_guard import Guard, GuardSettings
    from trainer.engine.lars import LARS

    weight = torch.nn.Parameter(torch.ones(4, 4, device="cuda"))
    optimizer, guard = LARS([weight], lr=0.1), Guard(GuardSettings(), torch.device("cuda"))
    weight.grad = torch.full_like(weight, torch.nan)
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.found_inf = guard.check(weight.grad.norm())
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(weight.detach(), torch.ones_like(weight))
    assert guard.state_dict()["skipped"] == 1


def test_all4one_on_the_device_equals_the_cpu() -> None:
    from trainer.contrast.queue import QueueSettings
    from trainer.methods.all4one import All4OneSettings
    from trainer.networks.backbones import BackboneSettings, build_backbone

    settings = All4OneSettings(
        projector_hidden=32,
        predictor_hidden=32,
        embedding_dim=16,
        transformer_dropout=0,
        queue=QueueSettings(size=64),
    )
    torch.manual_seed(0)
    method = settings.build(build_backbone(BackboneSettings(width=8), 32), 10).double()
    views = [torch.randn(8, 3, 32, 32, dtype=torch.float64) for _ in range(2)]
    labels, ids = torch.arange(8) % 3, torch.arange(8)
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        copy = settings.build(build_backbone(BackboneSettings(width=8), 32), 10).double()
        copy.load_state_dict(method.state_dict())
        copy.to(device)
        out = copy([v.to(device) for v in views], labels.to(device), ids.to(device))
        out.loss.backward()
        copy.after_backward()
        gradients = {n: p.grad.cpu() for n, p in copy.named_parameters() if p.grad is not None}
        results.append({"loss": out.loss.detach().cpu(), "queue": copy.queue.rows.cpu(), **gradients})
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-6, atol=1e-8, msg=name)
