"""A run whose data do not come can still be told to stop, and saves what it has."""

import signal
import time
from contextlib import closing
from pathlib import Path

import pytest
from file_server import FileServer, Request
from tiny_runs import Runs

from data_pipelines.loading.sample_order import SampleOrder
from data_pipelines.settings import DataSettings
from data_pipelines.shards.shard_set import ShardSet

BATCH, BLOCK = 64, 150


def first_block(folder: Path) -> tuple[set[str], int]:
    """Shards that a run reads first, and how many steps they are enough for."""
    sizes = ShardSet.open(folder, DataSettings()).shard_sizes
    shards = next(SampleOrder(sizes, seed=0, global_batch=BATCH, shuffle_block=BLOCK).upcoming(0, 0))
    return {f"shard-{number:06d}.tar" for number in shards}, sum(sizes[shard] for shard in shards) // BATCH


@pytest.mark.parametrize("ahead", [0, 3])
def test_a_run_that_waits_for_data_saves_when_it_is_told_to_stop(
    command, runs: Runs, tmp_path: Path, ahead: int
) -> None:
    name = f"waits{ahead}"
    assert command("data", "build", "digits", tmp_path / "set", "--shard-samples", 200).code == 0
    here, steps = first_block(tmp_path / "set" / "train")
    with closing(FileServer(tmp_path / "set" / "train")) as server:

        def stall_after_the_first_block(request: Request) -> str | None:
            return "stall" if request.name.endswith(".tar") and request.name not in here else None

        server.fault = stall_after_the_first_block
        process = runs.start(
            *runs.arguments(name),
            f"data.train={server.url}",
            f"data.cache={tmp_path / 'cache'}",
            f"data.shuffle_block={BLOCK}",
            f"data.prefetch_shards={ahead}",
            "run.seed=0",
            "eval.every_epochs=0",
            "--nproc",
            1,
        )
        runs.wait_for_step(name, steps - 1, process)  # the last one waits for the data of the one after it
        while not server.stalled:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=25)
    assert process.returncode == 143, out
    end = runs.ledger(name)[-1]
    assert (end["reason"], end["step"]) == ("terminated", steps)
    assert (runs.path(name).checkpoints / f"step_{steps:08d}").is_dir()
