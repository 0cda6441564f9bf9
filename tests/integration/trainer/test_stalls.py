"""A run that hangs says on every rank where, ends by itself, and goes on when it is told to."""

import re
from contextlib import closing
from pathlib import Path

import yaml
from file_server import FileServer, Request
from tiny_runs import STEPS, Runs

from data_pipelines.loading.sample_order import SampleOrder
from data_pipelines.settings import DataSettings
from data_pipelines.shards.shard_set import ShardSet
from trainer.runs.end_reasons import ExitCode

BATCH, SHARD = 64, 32
STALL_SECONDS = 15  # joining and opening must fit in it too, on a busy machine


def shard_of_rank_1(folder: Path) -> tuple[str, int]:
    """A shard that no rank reads before a step, in which rank 1 alone does; and the step."""
    shards = ShardSet.open(folder, DataSettings())
    order = SampleOrder(shards.shard_sizes, seed=0, global_batch=BATCH, shuffle_block=1)

    def read(start: int, stop: int) -> set[int]:
        return set(shards.index["shard"][order.samples(0, start, stop)].tolist())

    for step in range(2, STEPS):
        middle = step * BATCH + SHARD
        if alone := read(middle, middle + SHARD) - read(0, middle):
            return f"shard-{alone.pop():06d}.tar", step
    raise AssertionError("rank 0 reads every shard")


def test_a_rank_without_data_and_the_one_that_waits_for_it_say_so_and_the_run_goes_on(
    command, runs: Runs, tmp_path: Path
) -> None:
    assert command("data", "build", "digits", tmp_path / "set", "--shard-samples", SHARD).code == 0
    withheld, step = shard_of_rank_1(tmp_path / "set" / "train")
    with closing(FileServer(tmp_path / "set" / "train")) as server:

        def stall(request: Request) -> str | None:
            return "stall" if request.name == withheld else None

        server.fault = stall
        result = runs.train(
            "hangs",
            f"data.train={server.url}",
            f"data.cache={tmp_path / 'cache'}",
            "data.prefetch_shards=0",
            "data.shuffle_block=1",
            "run.seed=0",
            "eval.every_epochs=0",
            f"guard.stall_seconds={STALL_SECONDS}",
        )
        assert result.code == ExitCode.STALLED, result.out
        dumps = [runs.path("hangs").stall_dump(1, rank).read_text().split("\n---\n") for rank in (0, 1)]
        first, second = (yaml.safe_load(head) for head, _ in dumps)
        assert first["step"] == second["step"] == step - 1  # data are fetched a step ahead
        assert second["doing"] == "waiting for data"
        assert second["in"].startswith("Prefetch._take (data_pipelines/prefetch.py:")
        assert first["doing"] == "forward, backward and update"
        sender = "_global_statistics (trainer/distributed/batch_norm_cpu.py:"
        assert first["in"].startswith(f"all_gather_single, called by {sender}")
        # the read that hangs waits for the server, or for the other rank, which fetches the same shard ahead
        assert re.search(
            r'data_pipelines/shards/cached_files.py", line \d+ in read$', dumps[1][1], re.MULTILINE
        )
        *_, end = ledger = runs.ledger("hangs")
        assert [record["event"] for record in ledger] == ["start", "ready", "stepped", "end"]
        assert end["reason"] == "stalled"
        assert "waiting for data" in end["message"]
        assert "all_gather_single" in end["message"]
        assert "all4one resume" in result.words
        assert "Traceback" not in result.out
        server.fault = lambda request: None
        assert (again := runs.resume("hangs")).code == 0, again.out
    assert runs.ledger("hangs")[-1]["step"] == STEPS
