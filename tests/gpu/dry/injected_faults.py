"""Does one thing after the other that a step should not do, and prints what the observer saw of each, as JSON."""

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainer.profiling.dry_run.fake_device import fake_device
from trainer.profiling.dry_run.observer import Observer

FAULTS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool(x.sum() > 0),
    "read by mask": lambda x: x[x > 0],
    "write by mask": lambda x: x.__setitem__(x > 0, 0.0),
    "nonzero": lambda x: (x > 0).nonzero(),
    "masked_select": lambda x: x.masked_select(x > 0),
    "copy to host": lambda x: x.cpu(),
    "copy to device": lambda x: torch.ones(3).to(x.device),
    "torch.tensor": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "new_tensor": lambda x: x.new_tensor(3.0),
    "device synchronized": lambda x: torch.cuda.synchronize(),
    "event synchronized": lambda x: torch.cuda.Event().synchronize(),
    "stream synchronized": lambda x: torch.cuda.current_stream().synchronize(),
    "index from host": lambda x: x[torch.tensor([0, 1])],
    "clean: where": lambda x: torch.where(x > 0, x, 0.0),
    "clean: topk": lambda x: x.topk(2),
    "clean: number of host": lambda x: x * 2.0,
    "clean: scalar of host": lambda x: x * torch.tensor(2.0),
    "clean: copy in background": lambda x: torch.empty(x.shape, pin_memory=True).copy_(x, non_blocking=True),
}


def main() -> int:
    seen: dict[str, list[str]] = {}
    with fake_device(2) as device, Observer() as observer:
        for name, fault in FAULTS.items():
            x = torch.randn(4, 4, device=device)
            observer.record.waits.clear()
            observer.record.mixes.clear()
            observer.on = True
            try:
                fault(x)
            except Exception as error:  # a FakeTensor may refuse what mixes devices
                observer.record.mixes[str(error)] += 1  # type: ignore[index]
            observer.on = False
            seen[name] = [f"wait: {w.kind}" for w in observer.record.waits]
            seen[name] += [f"mix: {m}" for m in observer.record.mixes]
    print(json.dumps(seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
