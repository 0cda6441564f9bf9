"""A run whose data do not come can still be told to stop, and saves what it has."""

import signal
from contextlib import closing
from pathlib import Path

from file_server import FileServer, Request


def test_a_run_that_waits_for_data_saves_when_it_is_told_to_stop(command, runs, tmp_path: Path) -> None:
    small = ("--shard-samples", 200)
    assert command("data", "build", "digits", tmp_path / "set", *small).code == 0
    with closing(FileServer(tmp_path / "set" / "train")) as server:
        served: set[str] = set()

        def stall_after_three(request: Request) -> str | None:
            if not request.name.endswith(".tar") or request.name in served or len(served) < 3:
                served.update([request.name] if request.name.endswith(".tar") else [])
                return None
            return "stall"

        server.fault = stall_after_three
        process = runs.start(
            *runs.arguments("waits"), f"data.train={server.url}", f"data.cache={tmp_path / 'cache'}",
            "data.shuffle_block=200", "eval.every_epochs=0", "data.prefetch=1", "--nproc", 1,
        )  # fmt: skip
        runs.wait_for_step("waits", 2, process)
        while not server.stalled:
            assert process.poll() is None, process.communicate()[0]
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 143, out
    end = runs.ledger("waits")[-1]
    assert (end["reason"], runs.path("waits").checkpoints.joinpath(f"step_{end['step']:08d}").is_dir()) == (
        "terminated",
        True,
    )
