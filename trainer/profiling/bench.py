"""The pieces of work that a profile measures."""

import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

import torch
import torch.distributed as dist

from data_pipelines.loading.prefetching_batches import Batch
from trainer.checkpoints.host_copies import clone_to_host
from trainer.config.schema import Config
from trainer.distributed.process_group import Process
from trainer.profiling.gpu_readings import GpuReadings
from trainer.profiling.instruments import WAIT
from trainer.profiling.peak import combined_peak, products_in
from trainer.profiling.timeline import Timeline
from trainer.runs.components import TrainingComponents, product_dtype

STEP = "step"
SHORT_PARTS = 500
"""Number of products that are timed to estimate how times vary."""
SMALLEST_HALF = 2
"""Rows below which half a micro-batch is too small: batch norm needs two."""
REST_S, LONGEST_REST_S = 0.05, 20.0
"""Seconds between two looks at a loader that comes to rest, and after which the profile goes on without that."""
RESTING = 0.1
"""Cores that a process at rest uses at most."""


class Bench:
    """Runs the work that is measured, on one rank of a run."""

    def __init__(self, config: Config, process: Process, parts: TrainingComponents) -> None:
        self._config, self._device, self._parts = config, process.device, parts
        self.gpu = GpuReadings(process.device)
        self.ahead = config.data.prefetch + 2
        """Steps whose batches the loader makes in advance at most: those that wait, one that finds no place among them,
        and one that DALI has begun."""
        self._rows = parts.engine.micro_batch
        self._fewer = half if (half := self._rows // 2) >= SMALLEST_HALF else self._rows

    def train(self, iterator: Iterator[Batch], timeline: Timeline) -> list[Batch]:
        """Run a training step without a change of the learning rate. Return its batches."""
        with timeline.span(STEP):
            with timeline.span(WAIT):
                batches = list(islice(iterator, self._config.train.grad_accum_steps))
            self._step(batches)
        return batches

    def repeat(self, batches: list[Batch], timeline: Timeline) -> None:
        """Run a step on batches that are there."""
        with timeline.span(STEP):
            self._step(batches)

    def _step(self, batches: list[Batch]) -> None:
        """Run a step with learning rate 0, because weights that are fitted to one batch would not be typical."""
        self._parts.engine.step(self._parts.total_steps, self._parts.loader.on_device(batches))

    def timed(self, work: Callable[[], object], times: int = 1) -> float:
        """Return the mean seconds of the work, which is done several times in a row."""
        self._settle()
        began = time.perf_counter()
        for _ in range(times):
            work()
        self._settle()
        return (time.perf_counter() - began) / times

    def rest(self) -> None:
        """Return once the loader has filled its buffers. Its threads would take cores from what is measured next."""
        self._settle()
        deadline = time.monotonic() + LONGEST_REST_S
        while time.monotonic() < deadline:
            used, began = time.process_time(), time.monotonic()
            time.sleep(REST_S)
            if time.process_time() - used < RESTING * (time.monotonic() - began):
                break
        dist.barrier()

    def loader_alone(self, steps: int) -> float:
        """Return the seconds to make the batches of a step, not counting batches that were prefetched."""
        accumulation = self._config.train.grad_accum_steps
        iterator = self._parts.loader.batches(0)
        for _ in range(self.ahead * accumulation):
            next(iterator)
        counted = max(steps, 3 * self.ahead)
        began = time.perf_counter()
        for _ in range(counted * accumulation):
            next(iterator)
        seconds = (time.perf_counter() - began) / counted
        dist.barrier()
        return seconds

    def fewer_rows(self, batches: list[Batch]) -> list[Batch]:
        """Return the first half of each micro-batch, or all of it if half would be too small for batch norm."""
        rows = self._fewer
        return [Batch([v[:rows] for v in b.views], b.labels[:rows], b.ids[:rows]) for b in batches]

    def independent_of_rows(self, whole: float, part: float) -> float:
        """Return the seconds of a step that do not depend on its rows, from the seconds with all rows and with fewer.

        0 if a micro-batch is too small to have fewer rows.
        """
        rows, fewer = self._rows, self._fewer
        return max(0.0, (rows * part - fewer * whole) / (rows - fewer)) if fewer < rows else 0.0

    def transfer(self, batches: list[Batch]) -> float:
        """Return the seconds to copy the images of a step to the device, a byte for each value."""
        if self._device.type == "cpu":
            return 0.0
        shapes = [view.shape for batch in batches for view in batch.views]
        host = [torch.empty(shape, dtype=torch.uint8, pin_memory=True) for shape in shapes]
        return min(self.timed(lambda: [view.to(self._device) for view in host]) for _ in range(3))

    def checkpoint(self) -> float:
        """Return the seconds for which a checkpoint blocks training."""
        began = time.perf_counter()
        model, optimizer = self._parts.engine.state()
        clone_to_host(model), clone_to_host(optimizer)
        return time.perf_counter() - began

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the networks' matrix products."""
        return product_dtype(self._config.train.precision)

    def peak(self, dtype: torch.dtype) -> float:
        """Return the operations per second of the fastest of several matrix products, with all ranks at once."""
        size = 8192 if self._device.type == "cuda" else 2048
        a = torch.randn(size, size, device=self._device, dtype=dtype)
        dist.barrier()
        best = min(self.timed(lambda: a @ a) for _ in range(3))
        return 2 * size**3 / best

    def peak_of_types(self, flops: Mapping[str, float], usual: float) -> float:
        """Return the peak for operations of several types, given `peak` of the type of this run. All ranks call.

        Float32 matrix products do not use TF32, but most float32 operations of a GPU do: convolutions.
        """
        peaks = {}
        for name in sorted(flops):
            with products_in(name) as dtype:
                peaks[name] = usual if name != "tf32" and dtype == self.dtype else self.peak(dtype)
        return combined_peak(flops, peaks.__getitem__)

    def jitter(self, seconds: float) -> float:
        """Return the standard deviation of work of this duration, if it consists of parts as short as the timed
        ones."""
        a = torch.randn(512, 512, device=self._device)
        dist.barrier()
        short = [self.timed(lambda: a @ a) for _ in range(SHORT_PARTS)]
        return statistics.pstdev(short) * math.sqrt(seconds / statistics.fmean(short))

    def memory(self) -> float:
        """Peak memory in bytes."""
        if self._device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self._device))
        return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def device_name(self) -> str:
        """Name of the device, for people."""
        if self._device.type == "cuda":
            return torch.cuda.get_device_name(self._device)
        return f"CPU, {torch.get_num_threads()} threads per process"

    def _settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
