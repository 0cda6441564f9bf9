"""The notebooks of examples/ run from their first cell to their last."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUICK = (
    "train.max_steps=3",
    "optim.warmup_epochs=0",
    "method.projector_hidden=32",
    "method.predictor_hidden=32",
    "method.embedding_dim=16",
    "method.queue.size=256",
    "parallel.torch_threads=1",
    "eval.every_epochs=0",
    "metrics.tensorboard=false",
)
LAST_SETTING = '    "run.name=notebook",\n'


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is but for a training of seconds, in an empty folder."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # several threads that share few cores wait for each other
    notebook = nbformat.read(path, as_version=4)
    cells = {cell.id: cell for cell in notebook.cells}
    assert not [cell.id for cell in notebook.cells if cell.cell_type == "code" and cell.outputs], (
        "outputs are not stored"
    )
    assert LAST_SETTING in cells["config"].source
    cells["config"].source = cells["config"].source.replace(
        LAST_SETTING, LAST_SETTING + "".join(f"    {setting!r},\n" for setting in QUICK)
    )
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    assert (tmp_path / "runs" / "notebook" / "eval.json").is_file()
    assert "image/png" in cells["similar"].outputs[-1].data
    assert cells["agreement"].outputs[0].text.startswith("the nearest neighbor shows the same digit for ")
