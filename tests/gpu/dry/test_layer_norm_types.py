"""Layer norms on a GPU that does not exist write activations in the type of autocast."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from dry_cases import WORLD_SIZE
from layer_norm_types import TYPED

from trainer.profiling.dry_run.library import stub_environment

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = Path(__file__).with_name("layer_norm_types.py")
FORWARD, BACKWARD = "all4one::layer_norm", "all4one::layer_norm_gradients"


@pytest.fixture(scope="module")
def seen() -> dict[str, set[tuple[str, str, str]]]:
    """Operation, type of the input and type of the result of the layer norms of each case."""
    environment = stub_environment(0, WORLD_SIZE) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    return {case: {tuple(norm) for norm in norms} for case, norms in map(json.loads, lines)}


@pytest.mark.parametrize("case", TYPED)
def test_layer_norms_write_bf16(seen: dict[str, set[tuple[str, str, str]]], case: str) -> None:
    results = {(operation, result) for operation, _, result in seen[case] if operation != BACKWARD}
    assert results == {(FORWARD, "torch.bfloat16")}


@pytest.mark.parametrize("case", TYPED)
def test_gradients_have_the_type_of_what_was_read(
    seen: dict[str, set[tuple[str, str, str]]], case: str
) -> None:
    gradients = {norm for norm in seen[case] if norm[0] == BACKWARD}
    assert gradients
    assert all(given == result for _, given, result in gradients)


def test_the_transformer_reads_bf16(seen: dict[str, set[tuple[str, str, str]]]) -> None:
    assert {given for _, given, _ in seen["all4one"]} == {"torch.bfloat16"}


def test_only_sums_of_residual_blocks_are_read_in_float32(
    seen: dict[str, set[tuple[str, str, str]]],
) -> None:
    """timm adds float32 positions (ViT) or scales by float32 weights (ConvNeXt), so their sums are float32."""
    assert {given for _, given, _ in seen["ConvNeXt"]} == {"torch.float32", "torch.bfloat16"}
