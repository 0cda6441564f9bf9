"""Finds whether the ranks hang, and which rank is the cause, from the records of all ranks. Has no clock of its own.

Ranks hang if none of them has finished a step for ten times as long as usual. What may take long is no hang: the start
with the first steps, evaluations, checkpoints, and a remote store whose requests fail and are tried again. The watch of
each rank (`trainer/runs/hang_watch.py`) limits these.

The cause is the first of these that there is:

1. A rank whose process does not run. It is stopped or suspended, or a thread holds its interpreter.
2. A rank that is in no message, while others wait in one. Of several, those that have begun the fewest messages.
3. A rank in another message than most of the ranks, or than in the step before.
4. A rank whose process hardly gets a core, although all ranks are in the same message.
"""

import statistics
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from trainer.distributed.rank_state import RankState
from trainer.distributed.record_layout import IN_STEP, Phase

States = Mapping[int, RankState]
"""What each rank does, by rank."""
TIMES_USUAL = 10
"""How much longer than the usual step a step may take."""
SETTLED_STEPS = 3
"""Steps before the usual step is known. The first one compiles, and chooses algorithms, so it does not count."""
_REMEMBERED = 25  # durations of steps
_LONGEST_PAUSE = 10.0
"""Seconds between two looks from which on the program that looks was suspended, and the ranks probably too."""
_LATE, _TIMES_LATER = 0.1, 5
"""A process hardly gets a core if it is throttled, or a thread of it that sleeps otherwise waits for one, for this
fraction of the time, and this many times as long as any other process."""
_LEAST_SILENCE = 2.5
"""Seconds for which a rank that runs may show no sign of it. It shows one each second, but may wait for a core."""


@dataclass(frozen=True)
class Hang:
    """A hang of the ranks."""

    ranks: tuple[int, ...]
    """The ranks that are its cause. Empty: the records name none."""
    step: int
    """Number of steps that are done."""
    seconds: float
    """Time since then, without what may take long."""
    reason: str
    """What the named ranks do, and the others."""

    def message(self, nodes: Mapping[int, str]) -> str:
        """Return the message for the user and the ledger. `suspect_nodes` finds the node of a single rank in it.

        Args:
            nodes: name of the node of each rank.
        """
        named = " and ".join(f"rank {rank} on {nodes[rank]} hangs" for rank in self.ranks) or "the ranks hang"
        return f"{named}: no step for {self.seconds:.0f} s after step {self.step}. {self.reason}"


class HangDetection:
    """Looks for a hang of the ranks of one start.

    Args:
        world_size: number of ranks.
        least_seconds: time without a step that counts as a hang, if it is at least ten times the usual step.
        usual: durations of steps of the start before, seconds, if these ranks have started again.
    """

    def __init__(self, world_size: int, least_seconds: float, usual: Sequence[float] = ()) -> None:
        self._world_size, self._least_seconds = world_size, least_seconds
        self._first_step: int | None = None
        self._step, self._since, self._looked = -1, 0.0, 0.0
        self.durations = deque[float](usual, maxlen=_REMEMBERED)
        """Durations of the last steps, seconds."""
        self._looks, self._waits = 0, Counter[int]()
        self._late: dict[int, float] = {}

    def look(self, states: States, now: float) -> Hang | None:
        """Return the hang that the records show. None: there is none.

        Args:
            states: what each rank does. Ranks that have not begun are missing.
            now: time of a clock, seconds.
        """
        paused, self._looked = now - self._looked > _LONGEST_PAUSE, now
        if len(states) < self._world_size:
            return None
        if any(state.phase == Phase.START for state in states.values()):
            # The step from which a rank goes on is not known before it has loaded a checkpoint.
            self._step = -1
            return None
        step = max(state.step for state in states.values())
        if step != self._step:
            self._note_step(step, now)
        elif paused:
            self._restart_clock(now)
        if self._since == now:
            self._late = {rank: state.late_seconds for rank, state in states.items()}
            return None
        self._looks += 1
        self._waits.update(rank for rank, state in states.items() if state.message.waits)
        waiting = {rank for rank, count in self._waits.items() if 2 * count > self._looks}
        stalled = now - self._since
        silence = max(_LEAST_SILENCE, stalled / 2)
        ranks, reason = cause(states, waiting, silence)
        suspended = len(states) > 1 and all(state.silent_seconds >= silence for state in states.values())
        if suspended or any(_may_last(states[rank]) for rank in ranks or states):
            self._restart_clock(now)
            self._late = {rank: state.late_seconds for rank, state in states.items()}
            return None
        if step == self._first_step or len(self.durations) < SETTLED_STEPS or stalled < self._limit():
            return None
        if not ranks:
            late = {rank: state.late_seconds - self._late[rank] for rank, state in states.items()}
            ranks, reason = starved(late, stalled) or (ranks, reason)
        return Hang(ranks, step, stalled, reason)

    def _limit(self) -> float:
        return max(self._least_seconds, TIMES_USUAL * statistics.median(self.durations))

    def _note_step(self, step: int, now: float) -> None:
        begins = self._step < 0 or step < self._step  # a rollback begins again
        # A first step of the attempt is not a usual one.
        if not begins and self._first_step is not None and self._step > self._first_step:
            # Of remote ranks only some steps are seen. The others have taken as long.
            done = step - self._step
            self.durations.extend([(now - self._since) / done] * min(done, _REMEMBERED))
        if begins:
            self._first_step = step
        self._step = step
        self._restart_clock(now)

    def _restart_clock(self, now: float) -> None:
        self._since, self._looks = now, 0
        self._waits.clear()


def cause(states: States, waiting: Collection[int], silence: float) -> tuple[tuple[int, ...], str]:
    """Return the ranks for which the others wait, and the reason. If the records do not tell, there are no ranks.

    Args:
        states: what each rank does.
        waiting: the ranks that wait in a message.
        silence: time without a sign after which a process does not run, seconds.
    """
    silent = [rank for rank, state in sorted(states.items()) if state.silent_seconds >= silence]
    absent = [rank for rank in sorted(states) if rank not in waiting]
    if silent:
        return tuple(silent), "The process does not run: it is stopped, or a thread holds its interpreter"
    if absent:
        first = min(_place(states[rank]) for rank in absent)
        last = [rank for rank in absent if _place(states[rank]) == first]
        if len(last) == len(states) and len(states) > 1:
            return (), f"All ranks are in {states[last[0]].phase.label}"
        return tuple(last), (f"It is in {states[last[0]].phase.label}{_others(states, waiting)}")
    odd = _in_other_message(states)
    if not odd:
        return (), f"All ranks wait in {states[min(states)].message}"
    messages = "; ".join(f"rank {rank} waits in {states[rank].message}" for rank in sorted(states)[:4])
    return tuple(odd), f"The ranks are in different messages: {messages}"


def starved(late: Mapping[int, float], seconds: float) -> tuple[tuple[int, ...], str] | None:
    """Return the rank whose process hardly gets a core, and the reason. None: there is none.

    Args:
        late: how long each rank was throttled, or a thread of it that sleeps otherwise has waited for a core, seconds.
        seconds: time in which it has.
    """
    rank = max(late, key=lambda one: late[one])
    others = max((own for one, own in late.items() if one != rank), default=0.0)
    if late[rank] < max(_LATE * seconds, _TIMES_LATER * others):
        return None
    return (rank,), f"Its process hardly gets a core: it has waited for one for {late[rank]:.0f} s"


def _place(state: RankState) -> tuple[int, int, Phase]:
    """Return how far a rank has come. Its messages count first, because every rank begins the same ones."""
    return state.message.number, state.step, state.phase


def _others(states: States, waiting: Collection[int]) -> str:
    told = [f"rank {rank} waits in {states[rank].message}" for rank in sorted(waiting)]
    more = f" and {len(told) - 2} more ranks wait" if len(told) > 2 else ""
    return f", and {', '.join(told[:2])}{more}" if told else ""


def _in_other_message(states: States) -> list[int]:
    """Return the ranks in another message than in the step before, or than the majority. All wait in a message."""
    messages = {rank: state.message for rank, state in sorted(states.items())}
    names = {rank: (one.number, one.kind, one.operation) for rank, one in messages.items()}
    if len(set(names.values())) == 1:
        return []
    if len(departed := [rank for rank, one in messages.items() if one.departs]) in range(1, len(states)):
        return departed
    name, votes = Counter(names.values()).most_common(1)[0]
    if 2 * votes > len(states):
        return [rank for rank, own in names.items() if own != name]
    least = min(number for number, *_ in names.values())
    return [rank for rank, (number, *_) in names.items() if number == least]


def _may_last(state: RankState) -> bool:
    """Whether what a rank does may take long."""
    return state.phase not in IN_STEP or (state.phase == Phase.DATA_WAIT and state.retries > 0)
