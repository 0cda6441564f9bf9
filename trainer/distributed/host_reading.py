"""Values of a device that the host reads later, without waiting when it asks for them."""

from typing import Any

import torch
from torch import Tensor


class HostReading:
    """An asynchronous copy of device values to the host."""

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = values

    def values(self) -> Any:
        """Return the values as nested lists. Waits until the device has computed them."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.tolist()
