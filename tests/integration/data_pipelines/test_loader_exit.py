"""A process that uses a loader must always come to an end."""

import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.build.builder import build
from data_pipelines.sources.image_sources import digits

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import sys, torch
from pathlib import Path
from data_pipelines.loading.loaders import TrainLoader
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.shards.shard_set import ShardSet
how, executor, folder = sys.argv[1:]
settings = DataSettings(executor=executor, views=(ViewSettings(size=32),) * 2, threads=2, eval_resize=32)
loader = TrainLoader(ShardSet.open(Path(folder)), settings, seed=0, rank=0, world_size=1, global_batch=64,
                     device=torch.device("cpu"))
batches = loader.batches(0)
for _ in range(3):
    next(batches)
if how == "close":
    loader.close()
elif how == "raise":
    raise SystemExit(7)
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    build(digits()["train"], folder)
    return folder


@pytest.mark.parametrize("executor", ["opencv", "dali"])
@pytest.mark.parametrize(("how", "code"), [("close", 0), ("leave", 0), ("raise", 7)])
def test_the_process_ends(folder: Path, executor: str, how: str, code: int) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, how, executor, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
