"""The documentation site builds without a warning, and its sentences are short."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def output(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_site_builds(tmp_path: Path) -> None:
    output("-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site"))
    pages = {
        name: (tmp_path / "site" / "reference" / name / "index.html").read_text() for name in ("api", "cli")
    }
    for function in ("load_config", "train", "resume", "evaluate", "load_backbone", "embed"):
        assert f'id="all4one.{function}"' in pages["api"]
    assert "verify-resume" in pages["cli"]


def test_sentences_are_short() -> None:
    assert "in all (limit" in output("docs/readability.py")
