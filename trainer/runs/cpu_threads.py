"""How many CPU threads torch uses in each process of a run."""

from data_pipelines.cores import cores_per_process, own_cores
from data_pipelines.log import LOGGER
from trainer.config.schema import Config
from trainer.distributed.objects import all_gather_object, broadcast_object
from trainer.distributed.process_group import Process
from trainer.runs.records import read_ledger
from trainer.runs.run_folder import RunFolder


def choose_threads(config: Config, run: RunFolder, process: Process) -> int:
    """Return the number of CPU threads of torch in each process. Every rank calls.

    The number changes the last bits of sums. A resumed run with the same number of processes therefore keeps the number
    that the ledger has. A new run takes as many threads as each process has cores to itself: one thread that waits for
    its core makes all others wait, several thousand times in a step.
    """
    if config.parallel.torch_threads:
        return config.parallel.torch_threads
    most = cores_per_process()
    kept = broadcast_object(_kept(run, process.world_size, most) if process.is_first else None)
    if kept is not None:
        return int(kept)
    threads = min(int(own) for own in all_gather_object(own_cores(most)))
    if threads < most and process.is_first:
        LOGGER.warning(
            "other programs use this machine's cores, so torch computes with %d of %d threads in each process, and "
            "keeps to that when the run is resumed. To choose another number, set parallel.torch_threads",
            threads,
            most,
        )
    return threads


def _kept(run: RunFolder, world_size: int, most: int) -> int | None:
    """Return the number of threads of the last attempt, or None if this attempt is free to choose."""
    ranks, last = dict[int, int](), None
    for record in read_ledger(run.ledger):
        if record["event"] == "start":
            ranks[record["attempt"]] = record["world_size"]
        elif record["event"] == "ready" and ranks.get(record["attempt"]) == world_size:
            last = record
    if last is None:
        return None
    threads = last.get("torch_threads", most)  # attempts that did not note it had a thread for each core
    return threads if isinstance(threads, int) and 1 <= threads <= most else None
