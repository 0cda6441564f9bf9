"""Counts where torch.compile would leave a graph of a recipe's networks and return to Python."""

from collections import Counter
from typing import Any

import torch
from torch._dynamo.utils import counters

from trainer.methods import Method
from trainer.profiling.dry_run.record import CompiledGraphs


def compiled_graphs(method: Method, batch: Any) -> CompiledGraphs:
    """Trace the networks of a method as torch.compile does, in one forward and backward pass on FakeTensors.

    No machine code is generated, because torch would time its kernels on the device.

    Args:
        method: a new method, which is compiled in place.
        batch: a micro-batch of views, labels and ids.
    """
    torch._dynamo.reset()
    counters.clear()
    method.train()
    method.compile_networks(backend="eager")
    method(batch.views, batch.labels, batch.ids).loss.backward()
    return CompiledGraphs(
        counters["stats"]["unique_graphs"],
        Counter({reason.splitlines()[0]: n for reason, n in counters["graph_break"].items()}),
    )
