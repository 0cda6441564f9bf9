"""Instruments the parts of a step from outside, so that training code contains no measurement code."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor, nn

from trainer.distributed.collectives import world_size
from trainer.distributed.message_kinds import OTHER_MESSAGES, message_kind
from trainer.engine.deepspeed_engine import Engine
from trainer.profiling.timeline import Timeline

PARTS = (
    WAIT := "data wait",
    LOADER := "loader's cores",
    ONLINE := "online forward",
    AVERAGED := "momentum forward",
    HEADS := "heads",
    NEIGHBORS := "neighbors",
    LOSSES := "losses",
    GATHERS := "gathers",
    BACKWARD := "backward",
    REDUCTION := "gradient reduction",
    OPTIMIZER := "optimizer",
    EMA := "EMA",
    QUEUE := "queue",
    OTHER := "other",
)
"""Parts of a step. `Loader's cores` is what the others take longer while the loader's threads use the same cores, or
hold Python's lock. `Gathers` are all communication except that of gradients, including their backward pass."""
_SENDS = (
    "all_reduce",
    "all_gather_single",
    "all_gather_into_tensor",
    "reduce_scatter_tensor",
    "reduce",
    "broadcast",
)


@dataclass(frozen=True, order=True)
class Message:
    """A collective operation of all ranks."""

    kind: str
    """The content of the message."""
    operation: str
    """Name of the function in `torch.distributed`."""
    bytes: int
    """Bytes that each rank contributes."""
    in_background: bool
    """Whether the operation is asynchronous."""


class Spans(Protocol):
    """Takes the parts of a step as blocks with a name, as a `Timeline` does."""

    def span(self, name: str, /) -> AbstractContextManager[None]:
        """Return the context of a block that is a part of the step."""


def instrument(engine: Engine, timeline: Spans) -> None:
    """Make every step of the engine record its spans on the timeline. The engine cannot be used for training
    afterwards."""
    method = engine.method
    for name, child in method.named_children():
        if name == "backbone":
            _watch(child, ONLINE, timeline)
        elif name == "momentum":
            for network in child.children():
                _watch(network, AVERAGED, timeline)
        elif child is not method.queue and name != "classifier":
            _watch(child, HEADS, timeline)
    _wrap(method, "forward", LOSSES, timeline)
    _wrap(method, "after_step", EMA, timeline)
    if method.queue is not None:
        _wrap(method.queue, "nearest", NEIGHBORS, timeline)
        _wrap(method.queue, "wait", QUEUE, timeline)
    _wrap(engine._deepspeed, "backward", BACKWARD, timeline)
    _wrap(engine, "_clip", REDUCTION, timeline)
    _wrap(engine.optimizer, "step", OPTIMIZER, timeline)


def _wrap(owner: Any, name: str, label: str, timeline: Spans) -> None:
    plain = getattr(owner, name)

    @wraps(plain)
    def measured(*args: Any, **kwargs: Any) -> Any:
        with timeline.span(label):
            return plain(*args, **kwargs)

    setattr(owner, name, measured)


def _watch(network: nn.Module, label: str, timeline: Spans) -> None:
    entered: list[Any] = []

    def before(*_: Any) -> None:
        span = timeline.span(label)
        span.__enter__()
        entered.append(span)

    def after(*_: Any) -> None:
        entered.pop().__exit__(None, None, None)

    network.register_forward_pre_hook(before)
    network.register_forward_hook(after)


class Messages:
    """All messages between the ranks while the context is active.

    They are counted and timed, and sent only if `silent` is false.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.sent: Counter[Message] = Counter()
        """How often this rank took part in each message while the timeline was on."""
        self.silent = False
        self._timeline = timeline
        self._plain: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> "Messages":
        for name in _SENDS:
            self._plain[name] = getattr(dist, name)
            setattr(dist, name, self._measured(name))
        return self

    def __exit__(self, *_: object) -> None:
        for name, plain in self._plain.items():
            setattr(dist, name, plain)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Send nothing in this context: each rank continues as if all others had the same tensors."""
        self.silent = True
        try:
            yield
        finally:
            self.silent = False

    def _measured(self, name: str) -> Callable[..., Any]:
        plain = self._plain[name]

        @wraps(plain)
        def send(*tensors: Any, **options: Any) -> Any:
            # (out, in) for a gather or a scatter, (in, …) for the others
            given = [t for t in tensors if isinstance(t, Tensor)]
            in_background = bool(options.get("async_op"))
            if self._timeline.on:
                size = given[-1].numel() * given[-1].element_size()
                self.sent[
                    Message(message_kind(sys._getframe(1)) or OTHER_MESSAGES, name, size, in_background)
                ] += 1
            if self.silent:
                return _Sent(given) if in_background else _pretend(given)
            with self._timeline.span(GATHERS):
                work = plain(*tensors, **options)
            return work if work is None else _Waited(work, self._timeline)

        return send


def _pretend(given: list[Tensor]) -> None:
    """Fill the output of a gather as if it had run, with this rank's rows in place of all ranks' rows."""
    if len(given) == 2:
        out, own = given
        if out.numel() == own.numel() * world_size():
            out.view(world_size(), -1).copy_(own.reshape(1, -1).expand(world_size(), -1))
        else:
            out.copy_(own.reshape(-1)[: out.numel()].view_as(out))


class _Sent:
    """The work handle of a message that was not sent."""

    def __init__(self, given: list[Tensor]) -> None:
        _pretend(given)

    def wait(self) -> None:
        pass


class _Waited:
    """A pending work handle whose wait is recorded as a span."""

    def __init__(self, work: Any, timeline: Timeline) -> None:
        self._work, self._timeline = work, timeline

    def wait(self, *args: Any) -> Any:
        with self._timeline.span(GATHERS):
            return self._work.wait(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)
