"""How long collectives take on machines of several GPUs, by a model of links inside and between the machines."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """The links of each GPU. The defaults are machines of 8 H100 with NVLink and a 400 Gb/s link for each GPU, at about
    the rates that NCCL reaches on them.

    A collective runs inside the machines and between them, each rank over its own link, as NCCL's trees and rings do.
    """

    gpus_per_machine: int = 8
    latency_inside: float = 2.5e-6
    """Seconds for each doubling of the ranks of a machine."""
    bandwidth_inside: float = 300e9
    """Bytes per second in one direction."""
    latency_between: float = 5e-6
    """Seconds for each doubling of the machines."""
    bandwidth_between: float = 45e9
    """Bytes per second in one direction."""

    def seconds(self, operation: str, size: float, ranks: int) -> float:
        """Return the time of a collective of `ranks` ranks that each give `size` bytes.

        A sum of n bytes moves `2 (G-1)/G n` inside machines of G ranks, and `2 (m-1)/m n/G` between m machines. A
        scatter of a sum moves half of that. A gather of n bytes from each rank moves `(m-1) n` between and `(G-1) m n`
        inside. Each has a latency for every doubling of the ranks, a sum twice.
        """
        inside = min(ranks, self.gpus_per_machine)
        machines = math.ceil(ranks / inside)
        doublings = math.log2(inside) * self.latency_inside + math.log2(machines) * self.latency_between
        if "gather" in operation:
            moved = (inside - 1) * machines * size / self.bandwidth_inside
            return doublings + moved + (machines - 1) * size / self.bandwidth_between
        passes = 1 if "scatter" in operation else 2
        share = size / inside
        moved = (inside - 1) * share / self.bandwidth_inside
        moved += (machines - 1) / machines * share / self.bandwidth_between
        return passes * (doublings + moved)
