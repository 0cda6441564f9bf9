"""The expected calibration error, against a count by hand, and over two ranks."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_processes import run_as_ranks

from trainer.distributed.collectives import rank
from trainer.evaluation.measures.calibration import BINS, calibration_error, calibration_sums


def counted(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Sample by sample, and bin by bin."""
    total = 0.0
    rows = [
        (p.max().item(), int(p.argmax()) == int(y)) for p, y in zip(logits.softmax(1), labels, strict=True)
    ]
    for b in range(BINS):
        inside = [(c, right) for c, right in rows if b / BINS < c <= (b + 1) / BINS]
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            total += len(inside) / len(rows) * abs(accuracy - confidence)
    return total


def sample(seed: int, rows: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (rows,), generator=generator)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 200), st.integers(2, 12))
def test_it_is_what_a_count_gives(seed: int, rows: int, classes: int) -> None:
    logits, labels = sample(seed, rows, classes)
    assert calibration_error(calibration_sums(logits, labels)) == pytest.approx(
        counted(logits, labels), abs=1e-12
    )


def test_known_cases() -> None:
    certain = torch.tensor([[1000.0, 0.0], [1000.0, 0.0]])
    assert calibration_error(calibration_sums(certain, torch.tensor([0, 0]))) == 0
    assert calibration_error(calibration_sums(certain, torch.tensor([1, 1]))) == 1
    undecided = torch.zeros(4, 2)
    assert calibration_error(calibration_sums(undecided, torch.tensor([0, 1, 0, 1]))) == 0


def on_this_rank() -> float:
    logits, labels = sample(1, 101, 5)
    own = slice(None, 30) if rank() == 0 else slice(30, None)
    return calibration_error(calibration_sums(logits[own], labels[own]))


def test_ranks_count_together(tmp_path: Path) -> None:
    wanted = counted(*sample(1, 101, 5))
    assert run_as_ranks(on_this_rank, 2, tmp_path, ()) == pytest.approx([wanted, wanted])
