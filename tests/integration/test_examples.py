"""The notebooks of `examples` run from their first cell to their last."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHORT = (
    "train.max_steps=3",
    "optim.warmup_epochs=0",
    "parallel.torch_threads=1",
    "metrics.tensorboard=false",
)
NARROW = (
    "method.projector_hidden=32",
    "method.predictor_hidden=32",
    "method.embedding_dim=16",
    "method.queue.size=256",
)
LAST_SETTING = '    "run.name=notebook",\n'
PICTURE = "image/png"


def execute(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...] = SHORT + NARROW
) -> dict[str, NotebookNode]:
    """Run a notebook in an empty folder, as it is but for a training of seconds. Returns its cells by their ids."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # several threads that share few cores wait for each other
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    cells = {cell.id: cell for cell in notebook.cells}
    assert not [cell.id for cell in notebook.cells if cell.cell_type == "code" and cell.outputs], (
        "outputs are not stored"
    )
    assert LAST_SETTING in cells["config"].source
    cells["config"].source = cells["config"].source.replace(
        LAST_SETTING, LAST_SETTING + "".join(f"    {setting!r},\n" for setting in settings)
    )
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()
    return cells


def printed(cell: NotebookNode) -> str:
    """What a cell prints, and the value of its last line."""
    return "".join(one.get("text", "") or one.get("data", {}).get("text/plain", "") for one in cell.outputs)


def test_every_notebook_has_a_test() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == {
        "digits",
        "metrics",
        "new_method",
        "own_images",
    }


def test_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = execute("digits", tmp_path, monkeypatch)
    assert (tmp_path / "runs" / "notebook" / "eval.json").is_file()
    assert PICTURE in cells["similar"].outputs[-1].data
    assert printed(cells["agreement"]).startswith("the nearest neighbor shows the same digit for ")


def test_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = execute("metrics", tmp_path, monkeypatch)
    assert "'loss'" in printed(cells["read"])
    assert "count    3.0" in printed(cells["once"])
    assert PICTURE in cells["curves"].outputs[-1].data
    assert "time.images_per_second" in printed(cells["time"])
    assert "notebook" in printed(cells["runs"])


def test_own_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = execute("own_images", tmp_path, monkeypatch)
    assert "quarantined" in printed(cells["build"])
    assert PICTURE in cells["look"].outputs[-1].data
    assert printed(cells["outliers"]).count("(") == 8
    assert "images have ten neighbors of one other class" in printed(cells["mislabeled"])


def test_new_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = execute("new_method", tmp_path, monkeypatch, SHORT)
    assert "the last one" in printed(cells["check"])
    assert 0 < float(cells["evaluate"].outputs[-1].data["text/plain"]) <= 1
    assert "rotnet" in (tmp_path / "runs" / "notebook" / "config.yaml").read_text()
