"""Checks of `all4one doctor`: an all-reduce between processes of this machine, with its bus bandwidth.

`python -m launch.doctor.all_reduce BACKEND STORE` is one rank of it. `RANK` and `WORLD_SIZE` tell which.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.devices import count_gpus
from data_pipelines.errors import UserError
from launch.doctor.findings import Finding, ok
from launch.local.rank_processes import module_command

NCCL, GLOO = "nccl", "gloo"
SECONDS = 60.0
"""Time limit of all ranks together, most of which is for loading torch."""
_FLOATS = {NCCL: 2**26, GLOO: 2**18}  # that of NCCL is large enough for its full bandwidth
_WARM_UP, _REPEATS = 3, 10
_FIXES = {
    NCCL: "run `NCCL_DEBUG=INFO all4one doctor` to see what NCCL does. If it works with NCCL_P2P_DISABLE=1, the GPUs "
    "cannot reach each other directly: administrators should disable ACS and the IOMMU",
    GLOO: "check the firewall and GLOO_SOCKET_IFNAME: processes must reach each other by TCP",
}


def nccl(_: Path) -> list[Finding]:
    """Run an all-reduce between all GPUs of this machine."""
    count = count_gpus()
    if not count:
        return ok("all-reduce", "no GPU here, so there is nothing for NCCL to connect")
    speed = bus_bandwidth(NCCL, count)
    if count == 1:
        return ok("all-reduce", "NCCL works on one GPU, which sends nothing")
    return ok("all-reduce", f"NCCL connects {count} GPUs with a bus bandwidth of {speed / 1e9:.1f} GB/s")


def gloo(_: Path) -> list[Finding]:
    """Run an all-reduce between two processes on CPUs, as the ranks of a job do."""
    speed = bus_bandwidth(GLOO, 2)
    return ok(
        "gloo",
        f"an all-reduce between two processes on this machine works, with a bus bandwidth of {speed / 1e9:.1f} GB/s",
    )


def bus_bandwidth(backend: str, ranks: int, *, seconds: float = SECONDS) -> float:
    """Return the bytes per second that each rank's link carries in an all-reduce, for one process per rank.

    An all-reduce of n bytes moves `2 (R-1)/R n` over the link of each of R ranks, whatever the algorithm (NVIDIA
    nccl-tests, PERFORMANCE.md). The sums are checked.

    Args:
        backend: `nccl`, where rank r has GPU r, or `gloo`, on CPUs.
        ranks: number of processes.
        seconds: time limit. Processes that still run are killed.

    Raises:
        UserError: a process fails, a sum is wrong, or the time is over.
    """
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="all4one-doctor-") as folder:
        started = []
        try:
            for rank in range(ranks):
                started.append(_start(backend, rank, ranks, Path(folder)))
            codes = _wait(started, deadline)
        finally:
            for process in started:
                process.kill()  # idempotent
                process.wait()
        outputs = [Path(folder, f"{rank}.out").read_text() for rank in range(ranks)]
        if None in codes:
            raise _failure(backend, ranks, f"gave no result within {seconds:.0f} s")
        if any(codes):
            failed = next(rank for rank, code in enumerate(codes) if code)
            last = (outputs[failed].strip().splitlines() or [f"code {codes[failed]}"])[-1]
            raise _failure(backend, ranks, f"failed in process {failed}: {last}")
        found = json.loads(outputs[0].splitlines()[-1])
    return float(2 * (ranks - 1) / ranks * found["bytes"] / found["seconds"])


def _start(backend: str, rank: int, ranks: int, folder: Path) -> subprocess.Popen[bytes]:
    environment = {"RANK": rank, "WORLD_SIZE": ranks, "ALL4ONE_PARENT": os.getpid(), "OMP_NUM_THREADS": 1}
    with Path(folder, f"{rank}.out").open("wb") as output:
        return subprocess.Popen(
            module_command("launch.doctor.all_reduce", backend, str(folder / "store")),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | {name: str(value) for name, value in environment.items()},
        )


def _wait(processes: Sequence[subprocess.Popen[bytes]], deadline: float) -> list[int | None]:
    """Return the exit codes once all have ended or one has failed. The others of that one would wait for ever."""
    while time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        if any(codes) or None not in codes:
            return [code or 0 for code in codes]
        time.sleep(0.05)
    return [None]


def _failure(backend: str, ranks: int, what: str) -> UserError:
    return UserError(
        f"an all-reduce of {ranks} process{'es' * (ranks > 1)} with {backend} {what}", fix=_FIXES[backend]
    )


def main() -> None:
    """Be one rank. The first one prints bytes and seconds of an all-reduce, as JSON."""
    from launch.local.worker import end_with_parent

    end_with_parent()
    gc.disable()  # this process lives for seconds, most of which the collector would spend on imported modules
    import torch
    import torch.distributed as dist

    backend, store = sys.argv[1:]
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", rank) if backend == NCCL else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=ranks)
    values = torch.full((_FLOATS[backend],), rank + 1.0, device=device)
    dist.all_reduce(values)
    if not bool((values == ranks * (ranks + 1) / 2).all()):
        sys.exit("the sums are wrong")

    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    values.zero_()  # many sums of other numbers would overflow
    for _ in range(_WARM_UP):
        dist.all_reduce(values)
    settle()
    began = time.perf_counter()
    for _ in range(_REPEATS):
        dist.all_reduce(values)
    settle()
    seconds = (time.perf_counter() - began) / _REPEATS
    if rank == 0:
        print(json.dumps({"bytes": values.nbytes, "seconds": seconds}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
