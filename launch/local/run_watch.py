"""Watches all ranks of one start by their records: what to do about a hang, and what to write down of slow ranks."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from enum import StrEnum
from typing import Any

from data_pipelines.files import write_whole
from data_pipelines.log import LOGGER
from launch.local.hang_detection import Hang, HangDetection, States
from launch.local.stragglers import Stragglers
from trainer.runs.rank_times import RANK_TIMES, STRAGGLER
from trainer.runs.run_folder import RunFolder

LOOK_SECONDS = 0.25
"""Time between two looks at the records."""
STACKS_SECONDS = 2.5
"""Time that the ranks have to write their stacks. A rank's thread looks for the request once a second."""
PRINT_SECONDS = 0.5
"""Time that a rank whose interpreter is held has to print its stacks."""
_WRITE_SECONDS = 10.0


class Order(StrEnum):
    """What the supervisors of the ranks do about a hang, one after the other."""

    WRITE_STACKS = "write stacks"
    """All ranks write their stacks to the run's folder."""
    PRINT_STACKS = "print stacks"
    """The ranks that hang print their stacks, if their interpreter could not write them."""
    END = "end hung ranks"
    """The ranks that hang are killed."""


class RunWatch:
    """Watches the ranks of one start of a run.

    Args:
        run: the run. Its ledger tells of slow ranks.
        nodes: name of the node of each rank.
        least_hang_seconds: shortest hang, as for `HangDetection`. 0: hangs are not looked for.
        before: the watch of the start before. It knows how long a step usually takes.
    """

    def __init__(
        self,
        run: RunFolder,
        nodes: Mapping[int, str],
        least_hang_seconds: float,
        before: "RunWatch | None" = None,
    ) -> None:
        self._run, self._nodes = run, nodes
        self._detection: HangDetection | None = None
        if least_hang_seconds:
            usual = before.usual_durations if before is not None and len(before._nodes) == len(nodes) else ()
            self._detection = HangDetection(len(nodes), least_hang_seconds, usual)
        self._stragglers = Stragglers(nodes)
        self._next_look = self._next_write = 0.0
        self._has_noted = False
        self._hang: Hang | None = None
        self._orders: list[tuple[float, Order]] = []
        self.ended: Hang | None = None
        """The hang whose ranks were ended."""

    @property
    def usual_durations(self) -> Sequence[float]:
        """Durations of the last steps, seconds."""
        return () if self._detection is None else self._detection.durations

    @property
    def hung_ranks(self) -> tuple[int, ...]:
        """The ranks that hang. If the records name none, it is the last one, so that the others can save."""
        return () if self._hang is None else self._hang.ranks or (max(self._nodes),)

    def message(self) -> str | None:
        """Return the message on the hang whose ranks were ended. None: there was none."""
        return None if self.ended is None else self.ended.message(self._nodes)

    def look(self, read: Callable[[], States], now: float) -> Order | None:
        """Look at the records if it is time. Returns what to do now, if anything.

        Args:
            read: returns what each rank does.
            now: time of a clock, seconds.
        """
        if now < self._next_look or self.ended is not None:
            return None
        self._next_look = now + LOOK_SECONDS
        states = read()
        self._note_stragglers(states, now)
        if self._detection is None:
            return None
        found = self._detection.look(states, now)
        if found is None:  # the ranks go on
            self._hang, self._orders = None, []
        elif self._hang is None:
            self._hang = found
            LOGGER.warning("%s", found.message(self._nodes))
            self._orders = [
                (now, Order.WRITE_STACKS),
                (now + STACKS_SECONDS, Order.PRINT_STACKS),
                (now + STACKS_SECONDS + PRINT_SECONDS, Order.END),
            ]
        if not self._orders or now < self._orders[0][0]:
            return None
        order = self._orders.pop(0)[1]
        if order is Order.END:
            self.ended = self._hang
        return order

    def finish(self) -> None:
        """Write down how long each rank has computed."""
        if times := self._times():
            self._write(times)

    def _note_stragglers(self, states: States, now: float) -> None:
        for slow in self._stragglers.see(states):
            LOGGER.warning(
                "rank %d on %s computes %.0f %% longer than the median of all ranks",
                slow.rank,
                slow.node,
                100 * slow.slower,
            )
            step = states[slow.rank].step
            self._note(STRAGGLER, step=step, rank=slow.rank, node=slow.node, slower=slow.slower)
        if self._stragglers.is_settled and not self._has_noted:
            self._has_noted = True
            self._note(RANK_TIMES, step=max(state.step for state in states.values()), times=self._times())
        if now >= self._next_write:
            self._next_write = now + _WRITE_SECONDS
            if times := self._times():
                self._write(times)

    def _times(self) -> list[dict[str, Any]]:
        return [asdict(one) for one in self._stragglers.times()]

    def _write(self, times: list[dict[str, Any]]) -> None:
        with suppress(OSError):  # the next write may succeed, and training must go on
            write_whole(self._run.rank_times, json.dumps(times).encode() + b"\n")

    def _note(self, event: str, **facts: Any) -> None:
        with suppress(OSError):
            self._run.note(event, attempt=self._run.attempts(), **facts)
