"""A rank of training that hangs at planned points. `benchmarks/named_hangs.py` runs it.

A rank hangs in one of four ways. Each planned hang happens once, since the rank leaves a file before it.

- stopped: the process is stopped by SIGSTOP, at a random time in the step.
- stuck read: the process reads from a pipe into which nobody writes, in place of the next batch.
- mismatched: the rank begins a message that no other rank begins.
- throttled: a control group lets the process run for 1 ms of each second.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from launch.local import worker

FOLDER = "HUNG_RANK_FOLDER"
"""Environment variable with the folder of `plan.json`, and of what the ranks write."""
STOPPED, STUCK_READ, MISMATCHED, THROTTLED = "stopped", "stuck read", "mismatched", "throttled"
CPU_GROUPS = Path("/sys/fs/cgroup/cpu")
"""Control groups of version 1, which limit the time on cores."""
import_all = worker.import_all


class Hangs:
    """The planned hangs of this rank.

    Args:
        folder: folder of the plan.
        rank: this rank.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        plan = json.loads((folder / "plan.json").read_text())
        self._mine = {h["step"]: (i, h) for i, h in enumerate(plan) if h["rank"] == rank}
        self._folder, self._step = folder, 0

    def begin(self, step: int) -> None:
        """Begin a step. A rank that is stopped or throttled is so from here on."""
        self._step = step
        if hang := self._take(STOPPED):
            threading.Timer(hang["delay"], os.kill, (os.getpid(), signal.SIGSTOP)).start()
        elif self._take(THROTTLED):
            group = self._folder / "group"
            Path(group.read_text(), "cgroup.procs").write_text(str(os.getpid()))

    def send(self) -> None:
        """Begin a message that no other rank begins, if that is planned for this step."""
        import torch
        import torch.distributed as dist

        if self._take(MISMATCHED):
            dist.all_reduce(torch.zeros(3))

    def read(self) -> None:
        """Read what never comes, if that is planned for this step."""
        if self._take(STUCK_READ):
            os.read(os.pipe()[0], 1)

    def _take(self, kind: str) -> dict[str, Any] | None:
        """Return the hang of a kind that is due now, and note that it happens."""
        index, hang = self._mine.get(self._step, (0, None))
        done = self._folder / f"hung_{index}.json"
        if hang is None or hang["kind"] != kind or done.exists():
            return None
        done.write_text(json.dumps({"time": time.time()}))
        return dict(hang)


def main() -> int:
    """Train as `launch.local.worker` does, and hang as planned."""
    import_all()
    _put_in(Hangs(Path(os.environ[FOLDER]), int(os.environ["RANK"])))
    return worker.main()


def _put_in(hangs: Hangs) -> None:
    """Put the hangs into the calls of a step."""
    from trainer.engine.deepspeed_engine import Engine
    from trainer.loop import Trainer
    from trainer.methods import Method

    def before(owner: Any, attribute: str, act: Callable[..., None]) -> None:
        call = getattr(owner, attribute)

        @wraps(call)
        def watched(*args: Any, **options: Any) -> Any:
            act(*args)
            return call(*args, **options)

        setattr(owner, attribute, watched)

    before(Engine, "step", lambda engine, step, *_: hangs.begin(step))
    before(Method, "forward", lambda *_: hangs.send())
    batches = Trainer._batches

    def reading(self: Trainer) -> Iterator[Any]:
        for batch in batches(self):
            hangs.read()
            yield batch

    Trainer._batches = reading  # type: ignore[method-assign]
