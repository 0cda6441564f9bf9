"""A rank of training that is killed by SIGKILL at planned points. `benchmarks/lost_ranks.py` runs it.

A point is the moment before or after a call in a step: a wait for data, a pass, a message, a write. It is named by the
call and its number within the step. Each planned kill happens once, since the rank leaves a file before it dies.
"""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from launch.local import worker

FOLDER = "KILLED_RANK_FOLDER"
"""Environment variable with the folder of `plan.json`, and of what the ranks write."""
import_all = worker.import_all


class Points:
    """The points that this rank passes.

    Args:
        folder: folder of the plan.
        rank: this rank.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        plan = json.loads((folder / "plan.json").read_text())
        self._mine = {
            (k["step"], k["point"], k["number"]): i for i, k in enumerate(plan) if k["rank"] == rank
        }
        self._folder, self._passed = folder, (folder / f"points_{rank}.jsonl").open("a", buffering=1)
        self._finished = (folder / f"finished_{rank}.jsonl").open("a", buffering=1)
        self._step, self._counts = 0, Counter[str]()

    def begin(self, step: int) -> None:
        """Begin to count the points of a step."""
        self._step = step
        self._counts.clear()

    def finish(self, step: int) -> None:
        """Record that a step is finished."""
        print(json.dumps({"step": step, "time": time.time()}), file=self._finished)

    def reach(self, name: str, step: int | None = None) -> None:
        """Pass a point, or die there."""
        at = self._step if step is None else step
        number = self._counts[name]
        self._counts[name] += 1
        print(json.dumps({"step": at, "point": name, "number": number}), file=self._passed)
        kill = self._mine.get((at, name, number))
        if kill is None:
            return
        done = self._folder / f"killed_{kill}.json"
        if not done.exists():
            done.write_text(json.dumps({"time": time.time()}))
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """Train as `launch.local.worker` does, and die as planned."""
    import_all()
    _watch(Points(Path(os.environ[FOLDER]), int(os.environ["RANK"])))
    return worker.main()


def _watch(points: Points) -> None:
    """Put points around the calls of a step."""
    import torch.distributed as dist

    from trainer.checkpoint_manager import CheckpointManager
    from trainer.checkpoints import store
    from trainer.distributed.neighbor_exchange import NeighborExchange
    from trainer.engine.deepspeed_engine import Engine
    from trainer.engine.divergence_guard import Guard
    from trainer.loop import Trainer
    from trainer.methods import Method
    from trainer.monitoring.online_evaluation import OnlineEvaluation
    from trainer.monitoring.recorder import Recorder
    from trainer.runs.neighbor_copies import NeighborCopies

    def around(owner: Any, attribute: str, name: str, step: Callable[..., int] | None = None) -> None:
        call = getattr(owner, attribute)

        @wraps(call)
        def watched(*args: Any, **options: Any) -> Any:
            at = None if step is None else step(*args)
            points.reach(f"before {name}", at)
            result = call(*args, **options)
            points.reach(f"after {name}", at)
            return result

        setattr(owner, attribute, watched)

    engine_step = Engine.step

    def counted_step(self: Engine, step: int, *args: Any, **options: Any) -> Any:
        points.begin(step)
        points.reach("before step")
        values = engine_step(self, step, *args, **options)
        points.finish(step + 1)
        points.reach("after step")
        return values

    Engine.step = counted_step  # type: ignore[method-assign]
    for message in ("all_reduce", "all_gather_single", "all_gather_into_tensor", "all_gather", "broadcast"):
        around(dist, message, message)
    around(Trainer, "_fetch", "wait for data")
    around(Method, "forward", "forward")
    around(Method, "after_backward", "queue")
    around(Engine, "_clip", "clip")
    around(Guard, "check", "guard")
    around(Method, "after_step", "EMA")
    around(NeighborCopies, "begin", "copy")
    around(NeighborExchange, "begin", "exchange")
    around(Recorder, "record", "record")
    around(OnlineEvaluation, "run", "evaluation")
    around(CheckpointManager, "save", "save")
    around(store, "write_files", "write", lambda snapshot, *_: snapshot.step)
