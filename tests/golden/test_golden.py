from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, Result, run_program

HERE = Path(__file__).resolve().parent
FILES = sorted(HERE.glob("*.npz"))


def golden(*arguments: object) -> Result:
    return run_program(ROOT / "benchmarks" / "golden.py", *arguments)


@pytest.mark.parametrize("nproc", [1, 2])
def test_losses_gradients_and_queue_are_the_published_ones(nproc: int) -> None:
    result = golden(*FILES, "--nproc", nproc)
    assert result.code == 0, result.out
    assert result.out.count("grad/") >= 2 * 60


def test_a_wrong_number_fails(tmp_path: Path) -> None:
    values = dict(np.load(FILES[0]))
    values["grad/predictor.0.weight"] = values["grad/predictor.0.weight"] + 2e-6
    np.savez(tmp_path / "wrong.npz", **values)
    (tmp_path / "wrong.json").write_text(FILES[0].with_suffix(".json").read_text())
    result = golden(tmp_path / "wrong.npz")
    assert result.code == 1
    assert "above tolerance" in result.out
