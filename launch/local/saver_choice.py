"""Chooses which rank saves after the loss of another one, and which ones hand their copies of shards to it."""

from collections.abc import Mapping

from trainer.runs.supervisor import HeldCopy, Holdings, Task


def choose_saver(reports: Mapping[int, int | None]) -> int | None:
    """Return the rank that saves: the lowest one that holds the newest step. None: no rank holds a step.

    Args:
        reports: the step that each rank holds, or None.
    """
    held = {rank: step for rank, step in reports.items() if step is not None}
    return min(held, key=lambda rank: (-held[rank], rank), default=None)


def choose_tasks(reports: Mapping[int, Holdings], world_size: int) -> dict[int, Task]:
    """Return what the ranks that are left do. Empty: nothing that they hold can be saved.

    The newest step counts. If a rank holds its whole state, no copies are needed.

    Args:
        reports: what each rank that is left holds.
        world_size: number of ranks before the loss.
    """
    whole = {rank: one.step for rank, one in reports.items()}
    saver = choose_saver(whole)
    by_step: dict[int, dict[int, HeldCopy]] = {}
    for rank, one in reports.items():
        for copy in one.copies:
            by_step.setdefault(copy.step, {})[rank] = copy
    for step in sorted(by_step, reverse=True):
        if saver is not None and (newest := whole[saver]) is not None and newest >= step:
            break
        if tasks := _join(step, by_step[step], world_size):
            return tasks
    return {} if saver is None else {saver: Task(saves=True)}


def _join(step: int, held: Mapping[int, HeldCopy], world_size: int) -> dict[int, Task]:
    """Return who saves the copies of a step and who hands over shards. Empty: something of the step is lost."""
    savers = [rank for rank, copy in held.items() if copy.has_model]
    holders = {
        shard: [rank for rank, copy in held.items() if shard in copy.shards] for shard in range(world_size)
    }
    if not savers or not all(holders.values()):
        return {}
    saver = min(savers)
    handed: dict[int, list[int]] = {}
    for shard, ranks in holders.items():
        if saver not in ranks:  # the owner, if it is left
            handed.setdefault(shard if shard in ranks else min(ranks), []).append(shard)
    tasks = {rank: Task(copy=step, shards=tuple(shards)) for rank, shards in handed.items()}
    return tasks | {saver: Task(saves=True, copy=step)}
