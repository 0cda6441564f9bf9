"""How slowly an EMA encoder follows. Loads no torch, because pages that only show a run draw it too."""

import math


def momentum_at(step: int, total_steps: int, start: float, end: float = 1.0) -> float:
    """Return the momentum: a cosine from `start` at step 0 to `end` at the last step (Grill et al. 2020, appendix)."""
    return end - (end - start) * (math.cos(math.pi * min(step, total_steps) / total_steps) + 1) / 2
