"""How rollbacks have shifted the order of batches, as checkpoints record it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RollbackState:
    """How rollbacks have shifted the order of batches."""

    skipped_batches: int = 0
    """Number of batches that the current run skipped. Step s takes batch s + skipped_batches."""
    rollbacks: int = 0
    """Number of rollbacks."""
    rolled_back_to: int = -1
    """Step of the checkpoint that the last rollback loaded. -1: there was none."""

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "RollbackState":
        """Return the rollback state of a checkpoint. Version 0.1 wrote it under other names."""
        if "rollback" in state:
            return cls(**state["rollback"])
        before = dict(state["detour"])
        return cls(skipped_batches=before.pop("passed_over"), **before)
