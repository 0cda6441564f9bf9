"""`make gpu-check`'s table, made for real on a CPU, and the rows that fail in it."""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from commands import ROOT, Result, run_program


def check(*arguments: str, **environment: str) -> Result:
    # Rows run beside other tests: several threads that share few cores would wait for each other.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return run_program(ROOT / "benchmarks" / "gpu_check.py", *arguments, env=environment, apart=True)


def test_rows_of_a_cpu_are_a_markdown_table() -> None:
    done = check("--device", "cpu", "--quick", "--only", "golden", "byol", "roofline", "opencv")
    assert done.code == 0, done.out + done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("## CPU, ")
    table = lines[lines.index("| what | result | time |") :]
    assert table[1] == "| --- | --- | ---: |"
    cells = {row.split(" | ")[0].strip("| "): row.split(" | ")[1] for row in table[2:]}
    assert list(cells) == ["digits", "golden", "byol", "roofline", "opencv"]
    assert "worst of 142 quantities" in cells["golden"]
    assert cells["byol"].startswith("20 steps, loss ")
    assert "images/s, MFU" in cells["roofline"]
    assert "on loaded data; loader alone" in cells["opencv"]
    assert "of a matrix product on this device" in cells["opencv"]


def test_a_machine_without_a_gpu_is_told_so_in_one_line() -> None:
    done = check(CUDA_VISIBLE_DEVICES="")
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("gpu_check: no GPU here")
    assert len(done.err.splitlines()) == 1


def test_a_row_that_does_not_exist_is_named() -> None:
    done = check("--device", "cpu", "--quick", "--only", "golden", "nothing")
    assert done.code == 2
    assert "there is no row nothing; rows: golden, " in done.err


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("checked_rows")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('done')", "read done"),
        (
            "print('error: no disk\\n  fix: buy | one'); raise SystemExit(3)",
            "code 3: error: no disk fix: buy | one",
        ),
        ("raise SystemExit(4)", "code 4: it said nothing"),
        ("print('oops')", "ValueError: oops"),
        ("import time; time.sleep(600)", "no end within 2 s"),
        ("import os; os.kill(os.getpid(), 9)", "code -9: it said nothing"),
    ],
)
def test_a_row_ends_with_its_figure_or_its_reason(
    rows: ModuleType, code: str, words: str, tmp_path: Path
) -> None:
    def figure(said: str) -> str:
        if said.strip() != "done":
            raise ValueError(said.strip())
        return "read done"

    outcome = rows.run_row(rows.Row("a row", [sys.executable, "-c", code], 2, figure), tmp_path, os.environ)
    assert (outcome.passed, outcome.words) == (words == "read done", words)
    line = outcome.as_markdown()
    assert line.startswith("| a row | " + ("" if outcome.passed else "**failed**: "))
    assert line.replace("\\|", "").count("|") == 4


def test_what_a_row_has_started_ends_with_it(rows: ModuleType, tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    rows.run_row(rows.Row("a row", [sys.executable, "-c", code], 2, str), tmp_path, os.environ)
    child = int((tmp_path / "a_row.log").read_text())
    assert not _alive(child)


def _alive(pid: int) -> bool:
    """Whether a process runs, which a zombie that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
